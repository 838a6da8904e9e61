"""Loads the bundle's tokenizer and chat template; the only importer of ``tokenizers``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from edge_runtime.contract.errors import BadInputError
from export.chat.source import read_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import tokenizers

    from export.chat.sandbox import TemplateSource

TOKENIZER_FOLDER = "tokenizer"
TOKENIZER_PATH = "tokenizer/tokenizer.json"

_CHUNK = 1024  # texts; an Encoding takes some hundred bytes a token


def load_tokenizer(bundle: Path, *, continuing: bool = False) -> tokenizers.Tokenizer:
    """Loads the bundle's tokenizer, without padding and truncation.

    Args:
        bundle: folder of the bundle.
        continuing: what is tokenised goes on from earlier text: no blank is put before it.

    Raises:
        BadInputError: it is absent or unreadable.
    """
    # One core: the laptop is often a trainer too, and its CPU seconds are reported.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    path = bundle / TOKENIZER_PATH
    if not path.is_file():
        raise BadInputError(f"{path}: no such file; export the model again")
    try:
        text = path.read_text(encoding="utf-8")
        if continuing:
            text = json.dumps(_without_prefix(json.loads(text)))
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise BadInputError(f"{path}: not a tokenizer ({error}); export the model again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def decoder_of(bundle: Path) -> Callable[[Sequence[int]], str]:
    """Makes the function that writes ids of the bundle's tokenizer, special tokens included."""
    tokenizer = load_tokenizer(bundle)
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)


def encodings(
    tokenizer: tokenizers.Tokenizer,
    items: Sequence[Any],
    *,
    special: bool = True,
    offsets: bool = False,
) -> Iterator[tokenizers.Encoding]:
    """Encodes texts, or pairs of texts, a part at a time.

    Args:
        tokenizer: made by :func:`load_tokenizer`.
        items: strings or pairs of strings.
        special: add the special tokens that the tokenizer puts around them.
        offsets: encodings say which characters a token stands for; slower.
    """
    encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
    for start in range(0, len(items), _CHUNK):
        yield from encode(list(items[start : start + _CHUNK]), add_special_tokens=special)


def frame_of(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Lists the special tokens that the tokenizer puts before a text and behind it."""
    encoding = tokenizer.encode("a")
    own = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
    if not own:
        return [], []
    return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]


def load_template(bundle: Path, data: str | None, instead: str) -> TemplateSource:
    """Reads the chat template of a bundle.

    Args:
        bundle: folder of the bundle.
        data: the file whose conversations it is for.
        instead: what the file might give instead of conversations, for the message.

    Raises:
        BadInputError: there is none, or it or the tokenizer's configuration is unreadable.
    """
    found = read_template(bundle / TOKENIZER_FOLDER)
    if found is None:
        raise BadInputError(
            f"{data}: has conversations, but the bundle's tokenizer has no chat template; give "
            f"{instead}, or export a model that was made for chats"
        )
    return found


def _without_prefix(plain: dict[str, Any]) -> dict[str, Any]:
    """A ``tokenizer.json`` whose normalizer and pre-tokenizer put nothing before a text."""
    changed = dict(plain)
    for part in ("normalizer", "pre_tokenizer"):
        changed[part] = _bare(plain.get(part))
    return changed


def _bare(step: Any) -> Any:
    if not isinstance(step, dict) or step.get("type") == "Prepend":
        return None
    bare = dict(step)
    if bare.get("type") == "Metaspace":
        bare.pop("add_prefix_space", None)
        bare["prepend_scheme"] = "never"
    elif bare.get("type") == "ByteLevel":
        bare["add_prefix_space"] = False
    for parts in ("normalizers", "pretokenizers"):
        if parts in bare:
            bare[parts] = [part for item in bare[parts] if (part := _bare(item)) is not None]
    return bare
