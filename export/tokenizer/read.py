"""Reads a checkpoint's tokenizer with transformers."""

import importlib.util
from pathlib import Path
from typing import Any, TypeAlias

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.folders import json_object
from export.checkpoint.load import Checkpoint
from export.gguf import tokenizer as gguf_tokenizer
from export.gguf.reader import open_gguf
from export.wording import first_line

from .parity import check_same

JSON_FILES = (
    *("tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
_VOCABULARIES = ("tokenizer.*json", "vocab.*", "tekken.json", "*.model", "merges.txt")

Files: TypeAlias = "dict[str, dict[str, Any]]"
"""JSON objects by the names of their files."""


def read_files(path: Path) -> Files:
    """Reads the tokenizer's JSON files.

    Raises:
        BadInputError: one of them is damaged.
    """
    return {name: json_object(path / name) for name in JSON_FILES if (path / name).is_file()}


def read_tokenizer(checkpoint: Checkpoint, files: Files) -> tuple[Any, tuple[str, ...]]:
    """Loads a checkpoint's tokenizer; by ``tokenizer.json`` alone if its class cannot be it.

    Returns:
        A tokenizer of transformers that has a backend, and notes.

    Raises:
        BadInputError: there is none.
    """
    path = checkpoint.path
    if checkpoint.is_gguf:
        return gguf_tokenizer.read_tokenizer(open_gguf(path))
    file = path / "tokenizer.json"
    slow = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            slow = tokenizer
        reason = _misfit(tokenizer, path, _algorithm(files))
    except Exception as error:
        # Readers and converters raise what they like.
        reason = _reason(error, path)
    if not reason:
        return tokenizer, ()
    if not file.is_file():
        raise BadInputError(
            f"{path}: has no tokenizer.json, and none can be made of it ({reason})"
        ) from None
    try:
        plain = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    except Exception:
        raise BadInputError(f"{file}: cannot be read as a tokenizer ({reason})") from None
    if slow is not None:
        check_same(plain.backend_tokenizer, slow, (), str(path))
    if not _names_a_class(checkpoint, files):
        return plain, ()  # the class was but the architecture's usual one
    return plain, (f"tokenizer: tokenizer.json as it is, for transformers cannot use it: {reason}",)


def _names_a_class(checkpoint: Checkpoint, files: Files) -> bool:
    configuration = files.get("tokenizer_config.json", {})
    return bool(
        configuration.get("tokenizer_class") or getattr(checkpoint.config, "tokenizer_class", None)
    )


def _misfit(tokenizer: Any, path: Path, algorithm: str | None) -> str:
    """Says why a tokenizer of transformers is not that of the files; "" if it is."""
    kind = type(tokenizer).__name__
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return f"{kind} has no fast form"
    if not (_has_vocabulary(path) and set(backend.get_vocab()) - set(tokenizer.get_added_vocab())):
        return f"{kind} finds no vocabulary"
    if algorithm not in (None, type(backend.model).__name__):
        return f"{kind} is for {type(backend.model).__name__}, not for {algorithm}"
    return ""


def _reason(error: Exception, path: Path) -> str:
    """Says why there is no tokenizer; transformers asks for packages that would not help."""
    if not _has_vocabulary(path):
        return "no file has its vocabulary"
    alone = any(path.glob("*.model")) and not (path / "tokenizer.json").is_file()
    if alone and importlib.util.find_spec("sentencepiece") is None:
        return "its .model file is read with: pip install sentencepiece protobuf"
    if "custom code" in str(error):
        return "it needs code that comes with it, which is not run"
    return first_line(error)


def _has_vocabulary(path: Path) -> bool:
    return any(any(path.glob(name)) for name in _VOCABULARIES)


def _algorithm(files: Files) -> str | None:
    model = files.get("tokenizer.json", {}).get("model")
    return model.get("type") if isinstance(model, dict) else None
