"""Keeping libraries that talk from the terminal."""

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


def first_line(error: Exception) -> str:
    """The first line of an error, for messages of one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def one_line(error: Exception, characters: int = 200) -> str:
    """An error's text on one line: where the first of several says too little."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= characters else f"{text[:characters]} ..."
