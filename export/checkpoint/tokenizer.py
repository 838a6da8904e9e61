"""Writes a checkpoint's tokenizer into a bundle."""

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from edge_runtime.contract.errors import BadInputError

from .load import Checkpoint
from .quiet import first_line, quiet

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja"),
)
# Beyond this, model_max_length is transformers' way to say "not known".
_SANE_LENGTH = 1_000_000


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes ``tokenizer.json`` and its companions into ``folder``.

    Raises:
        BadInputError: there is no tokenizer that the ``tokenizers`` package can read.
    """
    folder.mkdir()
    source = checkpoint.path
    if checkpoint.is_gguf or not (source / "tokenizer.json").is_file():
        source = folder / "converted"
        _convert_tokenizer(checkpoint, source)
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    if source.parent == folder:
        shutil.rmtree(source)


def _convert_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    source, options = checkpoint.source
    with quiet():
        try:
            AutoTokenizer.from_pretrained(source, **options).save_pretrained(folder)
        except Exception as error:
            # As above: whatever a converter raises.
            raise _no_tokenizer(checkpoint.path, first_line(error)) from None
    if not (folder / "tokenizer.json").is_file():
        raise _no_tokenizer(checkpoint.path, "it has no fast form")


def _no_tokenizer(path: Path, reason: str) -> BadInputError:
    return BadInputError(f"{path}: has no tokenizer.json, and none can be made of it ({reason})")


def tokenizer_limit(checkpoint: Checkpoint) -> int | None:
    """``model_max_length`` of the tokenizer, in tokens; None where it is not known."""
    file = checkpoint.path / "tokenizer_config.json"
    if checkpoint.is_gguf or not file.is_file():
        return None
    try:
        limit = json.loads(file.read_text("utf-8")).get("model_max_length")
    except (ValueError, AttributeError) as error:
        raise BadInputError(f"{file}: not a JSON object ({error})") from None
    return int(limit) if isinstance(limit, int | float) and 0 < limit < _SANE_LENGTH else None
