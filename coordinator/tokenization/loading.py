"""Loads the bundle's tokenizer and chat template; the only importer of ``tokenizers``."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

from edge_runtime.contract.errors import BadInputError
from export.chat.source import CONFIG, read_template

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
        tokenizer = tokenizers.Tokenizer.from_str(text)
        if continuing:
            steps = tokenizers.Tokenizer.from_str(json.dumps(_without_prefix(json.loads(text))))
            tokenizer.normalizer = steps.normalizer
            tokenizer.pre_tokenizer = steps.pre_tokenizer
    except Exception as error:  # tokenizers raises bare Exception
        raise BadInputError(f"{path}: not a tokenizer ({error}); export the model again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # tokenizer.json has no place for it.
    tokenizer.encode_special_tokens = _setting(bundle, "split_special_tokens") is True
    return tokenizer


def truncation_side(bundle: Path) -> str:
    """Says at which end the tokenizer cuts texts that are too long: ``right`` or ``left``."""
    return "left" if _setting(bundle, "truncation_side") == "left" else "right"


def num_token_types(bundle: Path) -> int | None:
    """Gives the number of the model's token types; None where it does not matter or is not said."""
    found = _setting(bundle, "num_token_types")
    return found if isinstance(found, int) else None


def _setting(bundle: Path, name: str) -> Any:
    path = bundle / TOKENIZER_FOLDER / CONFIG
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON ({error}); export the model again") from None
    return fields.get(name) if isinstance(fields, dict) else None


def decoder_of(bundle: Path) -> Callable[[Sequence[int]], str]:
    """Makes the function that writes ids of the bundle's tokenizer, special tokens included."""
    tokenizer = load_tokenizer(bundle)
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)


def encodings(
    tokenizer: tokenizers.Tokenizer,
    texts: Sequence[str],
    *,
    offsets: bool = False,
) -> Iterator[tokenizers.Encoding]:
    """Encodes texts a part at a time, without the special tokens around them.

    Args:
        tokenizer: made by :func:`load_tokenizer`.
        texts: in order.
        offsets: encodings say which characters a token stands for; slower.
    """
    encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
    for start in range(0, len(texts), _CHUNK):
        yield from encode(list(texts[start : start + _CHUNK]), add_special_tokens=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FrameToken:
    """A special token that is put around texts, or the place of a text.

    Attributes:
        token_id: of the special token.
        token_type: of it, or of the text's tokens.
        text: which text stands here, 0 or 1; None for a special token.
    """

    token_id: int
    token_type: int
    text: int | None


def frame(tokenizer: tokenizers.Tokenizer, *, pair: bool) -> tuple[FrameToken, ...]:
    """Lists what the tokenizer makes of a text, or of a pair of texts, in order."""
    import tokenizers

    # Tokens of its own, for there is no text of which every tokenizer makes one.
    single = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0})).encode("a")
    encoding = tokenizer.post_process(single, single if pair else None)
    places = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
    return tuple(FrameToken(token_id=i, token_type=kind, text=text) for i, kind, text in places)


def frame_of(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Lists the special tokens that the tokenizer puts before a text and behind it."""
    tokens = frame(tokenizer, pair=False)
    place = next(i for i, token in enumerate(tokens) if token.text == 0)
    before, after = tokens[:place], tokens[place + 1 :]
    return [token.token_id for token in before], [token.token_id for token in after]


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


_ONE_BLANK = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
_NONE_BEHIND = {"type": "Strip", "strip_left": False, "strip_right": True}


def _without_prefix(plain: dict[str, Any]) -> dict[str, Any]:
    """A ``tokenizer.json`` of no model, but of steps that put nothing before a text.

    Some split a text at its blanks and then mark every word; there, the blanks themselves
    become the marks.
    """
    normalizer: Any = _bare(plain.get("normalizer"))
    splitter: Any = plain.get("pre_tokenizer")
    parts = splitter.get("pretokenizers", []) if isinstance(splitter, dict) else []
    blanks = [part for part in parts if part["type"] == "WhitespaceSplit"]
    if blanks and any(part["type"] == "Metaspace" for part in parts):
        splitter = splitter | {"pretokenizers": [part for part in parts if part not in blanks]}
        steps = [step for step in (normalizer, _ONE_BLANK, _NONE_BEHIND) if step]
        normalizer = {"type": "Sequence", "normalizers": steps}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": _bare(splitter),
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
    }


def _bare(step: Any) -> Any:
    if not isinstance(step, dict) or step.get("type") == "Prepend":
        return None
    bare = dict(step)
    if bare.get("type") == "Metaspace":
        bare.pop("add_prefix_space", None)
        bare["prepend_scheme"] = "never"
    elif bare.get("type") == "ByteLevel":
        bare["add_prefix_space"] = False
    elif bare.get("type") == "Strip":
        bare["strip_left"] = False
    for parts in ("normalizers", "pretokenizers"):
        if parts in bare:
            bare[parts] = [part for item in bare[parts] if (part := _bare(item)) is not None]
    return bare
