"""Keeps libraries that talk from the terminal."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers and the exporter from writing to the terminal."""
    level = logging.root.manager.disable
    bars = transformers.utils.logging.is_progress_bar_enabled()
    logging.disable(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
