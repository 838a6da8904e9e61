"""Texts to token ids, with the bundle's own tokenizer; the only user of ``tokenizers``."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.sample import Ragged, Samples, sample_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import tokenizers

    from edge_runtime.contract.manifest import Manifest

log = logging.getLogger(__name__)

TOKENIZER_PATH = "tokenizer/tokenizer.json"
_CHUNK = 1024  # texts; an Encoding takes some hundred bytes a token


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """Samples, and how many of them were cut to ``max_length``."""

    samples: Samples
    num_truncated: int


class SampleTokenizer:
    """Makes samples for one bundle.

    Pairs are cut longest first, so that a long text does not push the other one out.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        """Loads the tokenizer.

        Raises:
            BadInputError: it is absent or unreadable, or the backbone takes inputs that
                cannot be made from text.
        """
        names = [spec.name for spec in manifest.inputs if spec.kind == "tokens"]
        unknown = [name for name in names if name not in _STREAMS]
        if unknown or "input_ids" not in names:
            raise BadInputError(
                f"{bundle}: the backbone takes {', '.join(names)}; this pacplus makes "
                f"{', '.join(_STREAMS)}; export the model again"
            )
        self._manifest = manifest
        self._names = names
        self._tokenizer = _load(bundle / TOKENIZER_PATH)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(manifest.max_length, strategy="longest_first")

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tokenized:
        """Tokenises texts, or pairs of texts.

        Args:
            texts: one a sample.
            pairs: the second texts, as many.

        Returns:
            Samples in the order of ``texts``.
        """
        rows: dict[str, list[list[int]]] = {name: [] for name in self._names}
        seconds: list[int] = []
        num_truncated = 0
        for encoding in self._encodings(texts, pairs):
            empty = not encoding.ids
            for name in self._names:
                # Without special tokens an empty text has no token, but every sample
                # needs one to pool over.
                rows[name].append([self._filler(name)] if empty else _STREAMS[name](encoding))
            seconds.append(0 if pairs is None or empty else _second_start(encoding))
            num_truncated += bool(encoding.overflowing)
        inputs = {name: Ragged.from_rows(rows[name]) for name in self._names}
        samples = Samples(
            inputs=inputs,
            second_starts=np.array(seconds, np.int32),
            keys=sample_keys(self._manifest.backbone_digest, inputs),
        )
        log.debug("tokenised %d samples, %d truncated", len(samples), num_truncated)
        return Tokenized(samples=samples, num_truncated=num_truncated)

    def _encodings(
        self, texts: Sequence[str], pairs: Sequence[str] | None
    ) -> Iterator[tokenizers.Encoding]:
        items = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        for start in range(0, len(items), _CHUNK):
            yield from self._tokenizer.encode_batch_fast(items[start : start + _CHUNK])

    def _filler(self, name: str) -> int:
        return next(spec.pad for spec in self._manifest.inputs if spec.name == name)


_STREAMS = {
    "input_ids": lambda encoding: encoding.ids,
    "token_type_ids": lambda encoding: encoding.type_ids,
}


def _load(path: Path) -> tokenizers.Tokenizer:
    # One core: the laptop is often a trainer too, and its CPU seconds are reported.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    if not path.is_file():
        raise BadInputError(f"{path}: no such file; export the model again")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise BadInputError(f"{path}: not a tokenizer ({error}); export the model again") from None


def _second_start(encoding: tokenizers.Encoding) -> int:
    """Index of the second text's first token; of the last token when that text is empty.

    Sequence ids are used since RoBERTa's token types are all 0.
    """
    sequences = encoding.sequence_ids
    return sequences.index(1) if 1 in sequences else len(sequences) - 1
