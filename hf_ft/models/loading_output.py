"""What `transformers` prints while it loads and saves weights, switched off."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_loading() -> Iterator[None]:
    """Silence the library's load report and bars: the report is checked and printed in one line instead."""
    logging = importlib.import_module("transformers.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_progress_bars():
            yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No progress bars of `transformers` for loading and saving weights; that of training stays."""
    logging = importlib.import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
