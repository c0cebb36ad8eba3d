"""The terminal: bars only where somebody watches them, and no remarks of other libraries that nobody can act on."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hf_ft.environment.console import progress_shown

NOISE = {
    "transformers.models.timm_wrapper.image_processing_timm_wrapper": "The `save_pretrained` method is disabled",
    "transformers.models.auto.image_processing_auto": "Requested torchvision backend is not available",
    "transformers.trainer_utils": "mtime may not be reliable on this filesystem",
}
"""Logger -> how the one message begins that is kept from the screen: what it tells is so by design, and harmless."""

SWITCHES = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")
"""Environment variables that turn bars off; each library reads its own when it is imported."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leave out `NOISE`, and bars where nobody watches; everything else that libraries say is shown."""
    filters = {name: _unlike(beginning) for name, beginning in NOISE.items()}
    for name, keep in filters.items():
        logging.getLogger(name).addFilter(keep)
    hidden = [] if progress_shown() else [name for name in SWITCHES if name not in os.environ]
    os.environ.update(dict.fromkeys(hidden, "1"))
    datasets = sys.modules.get("datasets")  # where it is imported already, the variable comes too late
    was_shown = bool(hidden) and datasets is not None and datasets.is_progress_bar_enabled()
    if was_shown and datasets is not None:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        for name, keep in filters.items():
            logging.getLogger(name).removeFilter(keep)
        for name in hidden:
            os.environ.pop(name, None)
        if was_shown and datasets is not None:
            datasets.enable_progress_bars()


def _unlike(beginning: str) -> logging.Filter:
    """A filter that lets all messages pass but one."""

    class Unlike(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return not record.getMessage().startswith(beginning)

    return Unlike()
