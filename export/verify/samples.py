"""Makes samples for calibration and for the parity check.

The sentences in ``sentences.txt`` are unlike in length, register, script and punctuation, so
that the check sees what a user's text may bring. Short and long ones are padded together on
purpose.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import InputSpec, Stream
from export.ir.graph import Array

SENTENCES = tuple(Path(__file__).with_name("sentences.txt").read_text("utf-8").splitlines())

Sample = dict[str, "list[int]"]

FIRST_RANDOM_ID = 5
"""The first ids are special tokens in most vocabularies; padding is one of them."""

_REAL_VOCABULARY = 1000
_RANDOM_LENGTHS = (1, 2, 3, 5, 7, 8, 11, 16, 17, 23, 30, 33)
_OTHER_SENTENCE = 5


def check_samples(
    tokenizer_file: Path,
    inputs: Sequence[InputSpec],
    vocab_size: int,
    max_length: int,
    decoder_start: int = 0,
    texts: Sequence[str] = (),
) -> list[Sample]:
    """Makes the token inputs of ``texts``, or else of the built-in sentences.

    With a toy tokenizer (fewer than 1,000 entries) the sentences would be all unknown
    tokens; fixed random ids take their place. A second sequence, that of an
    encoder-decoder's decoder, is another sentence behind the start token.

    Returns:
        One dict a sample: input name -> ids, unpadded.

    Raises:
        BadInputError: the tokenizer is damaged, or makes no tokens.
    """
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:
        # tokenizers raises bare Exception.
        raise BadInputError(f"tokenizer.json: cannot be read ({error})") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    if not texts and min(tokenizer.get_vocab_size(), vocab_size) < _REAL_VOCABULARY:
        rows = [_random_row(length, vocab_size, max_length) for length in _RANDOM_LENGTHS]
    else:
        encodings = tokenizer.encode_batch(list(texts or SENTENCES))
        rows = [(encoding.ids, encoding.type_ids) for encoding in encodings if encoding.ids]
    if not rows:
        raise BadInputError("tokenizer.json: makes no token of any sentence; it is of another kind")
    streams = tuple(dict.fromkeys(spec.stream for spec in inputs))
    samples = []
    for index, (ids, types) in enumerate(rows):
        other = rows[(index + _OTHER_SENTENCE) % len(rows)][0]
        tokens = {streams[-1]: [decoder_start, *other][:max_length]} | {streams[0]: ids}
        sample = {spec.name: tokens[spec.stream] for spec in inputs if spec.kind == "tokens"}
        samples.append(sample | ({"token_type_ids": types} if "token_type_ids" in sample else {}))
    return samples


def _random_row(length: int, vocab_size: int, max_length: int) -> tuple[list[int], list[int]]:
    length = min(length, max_length)
    first = min(FIRST_RANDOM_ID, vocab_size - 1)
    ids = np.random.default_rng(length).integers(first, vocab_size, length)
    return ids.tolist(), [0] * length


def pad_batch(
    samples: Sequence[Mapping[str, Sequence[int]]],
    inputs: Sequence[InputSpec],
    *,
    left: bool = False,
) -> dict[str, Array]:
    """Pads each sequence to that of the longest sample, on the right unless ``left``.

    Returns:
        Input name -> (batch, sequence) of the input's dtype.
    """
    batch = {}
    for spec in inputs:
        tokens = next(s.name for s in inputs if s.kind == "tokens" and s.stream == spec.stream)
        lengths = [len(sample[tokens]) for sample in samples]
        longest = max(lengths)
        fill = spec.pad if spec.kind == "tokens" else 0
        array = np.full((len(samples), longest), fill, spec.dtype)
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            place = slice(longest - length, longest) if left else slice(length)
            array[row, place] = sample[spec.name] if spec.kind == "tokens" else 1
        batch[spec.name] = array
    return batch


def token_masks(batch: Mapping[str, Array], inputs: Sequence[InputSpec]) -> dict[Stream, Array]:
    """Marks the tokens of each sequence, (batch, sequence) bool."""
    return {spec.stream: batch[spec.name] > 0 for spec in inputs if spec.kind == "mask"}
