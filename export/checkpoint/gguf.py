"""GGUF files: one file with configuration, tokenizer and (quantized) weights."""

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from edge_runtime.contract.errors import BadInputError, MissingExtraError

from .quiet import first_line, quiet

SUFFIX = ".gguf"

_MAGIC = b"GGUF"


def read_config(path: Path) -> Any:
    """The configuration in transformers' form.

    Raises:
        BadInputError: no GGUF file, or of an architecture that transformers cannot read.
        MissingExtraError: the package ``gguf`` is not installed.
    """
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise BadInputError(f"{path}: is no GGUF file")
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "export")
    with quiet():
        try:
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:
            # Reader and converter raise what they like.
            raise BadInputError(
                f"{path}: transformers cannot read this GGUF file ({first_line(error)})"
            ) from None


def loading() -> contextlib.AbstractContextManager[object]:
    """Keeps the converter's own progress bar, which no setting turns off, from the terminal."""
    return contextlib.redirect_stderr(io.StringIO())
