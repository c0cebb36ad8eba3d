"""What other libraries print: progress bars only where somebody sees them, and no warning that nobody can act on."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hf_ft.environment.console import progress_shown

HARMLESS_WARNINGS = {
    "transformers.models.timm_wrapper.image_processing_timm_wrapper": "The `save_pretrained` method is disabled",
    "transformers.models.auto.image_processing_auto": "Requested torchvision backend is not available",
    "transformers.trainer_utils": "mtime may not be reliable on this filesystem",
}
"""Logger -> the beginning of the one message that is suppressed, because it reports what is intended."""

PROGRESS_VARIABLES = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")
"""Environment variables that disable progress bars; each library reads its own when it is imported."""


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Suppress `HARMLESS_WARNINGS`, and progress bars unless `progress_shown`; restores everything at the end.

    All other messages of libraries are printed.
    """
    filters = {name: _suppressing(beginning) for name, beginning in HARMLESS_WARNINGS.items()}
    for name, suppress in filters.items():
        logging.getLogger(name).addFilter(suppress)
    added = [] if progress_shown() else [name for name in PROGRESS_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    datasets = sys.modules.get("datasets")  # once it is imported, the variable has no effect
    was_enabled = bool(added) and datasets is not None and datasets.is_progress_bar_enabled()
    if was_enabled and datasets is not None:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        for name, suppress in filters.items():
            logging.getLogger(name).removeFilter(suppress)
        for name in added:
            os.environ.pop(name, None)
        if was_enabled and datasets is not None:
            datasets.enable_progress_bars()


def _suppressing(beginning: str) -> logging.Filter:
    """A filter that suppresses one message."""

    class Suppressing(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return not record.getMessage().startswith(beginning)

    return Suppressing()
