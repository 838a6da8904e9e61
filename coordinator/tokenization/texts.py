"""Texts and pairs of texts to token ids, for classification and regression."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.sample import Samples

from .loading import (
    FrameToken,
    encodings,
    frame,
    load_tokenizer,
    num_token_types,
    truncation_side,
)
from .model_inputs import filler, make_samples, token_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_runtime.contract.manifest import Manifest

log = logging.getLogger(__name__)

_MADE = ("input_ids", "token_type_ids")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """Samples, and which of them were cut to ``max_length``, by index."""

    samples: Samples
    truncated: tuple[int, ...]


class SampleTokenizer:
    """Makes samples for one bundle.

    Too long ones are cut as transformers does it: at the side that the tokenizer's files name,
    of pairs the longer text first, so that it does not push the other one out.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        """Loads the tokenizer.

        Raises:
            BadInputError: it is absent or unreadable, or the backbone takes inputs that
                cannot be made from text.
        """
        names = token_inputs(manifest)
        unknown = [name for name in names if name not in _MADE]
        if unknown or "input_ids" not in names:
            raise BadInputError(
                f"{bundle}: the backbone takes {', '.join(names)}; this pacplus makes "
                f"{', '.join(_MADE)}; export the model again"
            )
        self._manifest = manifest
        self._names = names
        self._tokenizer = load_tokenizer(bundle)
        self._cut_left = truncation_side(bundle) == "left"
        self._num_types = num_token_types(bundle)
        self._frames: dict[bool, tuple[FrameToken, ...]] = {}

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tokenized:
        """Tokenises texts, or pairs of texts.

        Args:
            texts: one a sample.
            pairs: the second texts, as many.

        Returns:
            Samples in the order of ``texts``.

        Raises:
            BadInputError: the special tokens alone are longer than a sample may be, or the
                model cannot tell a second text from the first.
        """
        rows: dict[str, list[list[int]]] = {name: [] for name in self._names}
        seconds: list[int] = []
        truncated: list[int] = []
        framing = self._framing(pairs is not None)
        room = self._room(framing)
        # Not cut by the package, which makes and joins all the pieces that it cuts off.
        columns = [encodings(self._tokenizer, each) for each in (texts, pairs or ())]
        given = zip(*(columns if pairs is not None else columns[:1]), strict=True)
        for index, encoded in enumerate(given):
            whole = [encoding.ids for encoding in encoded]
            parts = self._cut(whole, room)
            made = _framed(framing, parts)
            for name in self._names:
                # Without special tokens an empty text has no token.
                rows[name].append(made[name] or [filler(self._manifest, name)])
            seconds.append(_second_start(framing, parts) if pairs is not None else 0)
            if sum(map(len, parts)) < sum(map(len, whole)):
                truncated.append(index)
        samples = make_samples(self._manifest, rows, seconds)
        log.debug("tokenised %d samples, %d truncated", len(samples), len(truncated))
        return Tokenized(samples=samples, truncated=tuple(truncated))

    def _framing(self, pair: bool) -> tuple[FrameToken, ...]:
        if pair not in self._frames:
            self._frames[pair] = frame(self._tokenizer, pair=pair)
        return self._frames[pair]

    def _room(self, framing: Sequence[FrameToken]) -> int:
        if self._num_types and max(token.token_type for token in framing) >= self._num_types:
            raise BadInputError(
                f"the model has {self._num_types} token type (type_vocab_size) and so none for a "
                "second text; join both texts into one, or choose a model for pairs"
            )
        special = sum(token.text is None for token in framing)
        if special > self._manifest.max_length:
            raise BadInputError(
                f"the tokenizer puts {special} special tokens around each sample, but the bundle "
                f"takes {self._manifest.max_length} tokens; export with a larger --max-length"
            )
        return self._manifest.max_length - special

    def _cut(self, parts: Sequence[list[int]], room: int) -> list[list[int]]:
        lengths = kept_lengths([len(part) for part in parts], room)
        if self._cut_left:
            return [part[len(part) - kept :] for part, kept in zip(parts, lengths, strict=True)]
        return [part[:kept] for part, kept in zip(parts, lengths, strict=True)]


def kept_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """Says how much of a text, or of each of a pair, is kept: the strategy longest_first."""
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    shorter = min(*lengths, room // 2)
    longer = room - shorter
    return [shorter, longer] if lengths[0] <= lengths[1] else [longer, shorter]


def _framed(framing: Sequence[FrameToken], parts: Sequence[list[int]]) -> dict[str, list[int]]:
    """Puts texts into their frame; gives the inputs that can be made of texts."""
    ids: list[int] = []
    types: list[int] = []
    for token in framing:
        piece = [token.token_id] if token.text is None else parts[token.text]
        ids += piece
        types += [token.token_type] * len(piece)
    return {"input_ids": ids, "token_type_ids": types}


def _second_start(framing: Sequence[FrameToken], parts: Sequence[list[int]]) -> int:
    """Index of the second text's first token; of the last token when that text is empty."""
    lengths = [1 if token.text is None else len(parts[token.text]) for token in framing]
    place = next(i for i, token in enumerate(framing) if token.text == 1)
    return sum(lengths[:place]) if parts[1] else max(sum(lengths) - 1, 0)
