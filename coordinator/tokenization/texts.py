"""Texts and pairs of texts to token ids, for classification and regression."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.sample import Samples

from .loading import encodings, load_tokenizer
from .model_inputs import filler, make_samples, token_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tokenizers

    from edge_runtime.contract.manifest import Manifest

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """Samples, and which of them were cut to ``max_length``, by index."""

    samples: Samples
    truncated: tuple[int, ...]

    @property
    def num_truncated(self) -> int:
        """How many were cut."""
        return len(self.truncated)


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
        names = token_inputs(manifest)
        unknown = [name for name in names if name not in _MAKERS]
        if unknown or "input_ids" not in names:
            raise BadInputError(
                f"{bundle}: the backbone takes {', '.join(names)}; this pacplus makes "
                f"{', '.join(_MAKERS)}; export the model again"
            )
        self._manifest = manifest
        self._names = names
        self._tokenizer = load_tokenizer(bundle)
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
        truncated: list[int] = []
        items = texts if pairs is None else list(zip(texts, pairs, strict=True))
        for index, encoding in enumerate(encodings(self._tokenizer, items)):
            empty = not encoding.ids
            for name in self._names:
                # Without special tokens an empty text has no token.
                rows[name].append(
                    [filler(self._manifest, name)] if empty else _MAKERS[name](encoding)
                )
            seconds.append(0 if pairs is None or empty else _second_start(encoding))
            if encoding.overflowing:
                truncated.append(index)
        samples = make_samples(self._manifest, rows, seconds)
        log.debug("tokenised %d samples, %d truncated", len(samples), len(truncated))
        return Tokenized(samples=samples, truncated=tuple(truncated))


_MAKERS = {
    "input_ids": lambda encoding: encoding.ids,
    "token_type_ids": lambda encoding: encoding.type_ids,
}


def _second_start(encoding: tokenizers.Encoding) -> int:
    """Index of the second text's first token; of the last token when that text is empty.

    Sequence ids are used since RoBERTa's token types are all 0.
    """
    sequences = encoding.sequence_ids
    return sequences.index(1) if 1 in sequences else len(sequences) - 1
