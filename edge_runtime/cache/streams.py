"""Keys of the records of each sequence of a sample.

A record has one token count, and a sample of an encoder-decoder has two: its states are
kept in two records. The decoder's has a key of its own, derived from the sample's.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from edge_runtime.contract.checks import Array
from edge_runtime.contract.manifest import Stream

_DECODER = hashlib.sha256(b"pacplus decoder states 1").digest()
_DECODER_NUMBER = int.from_bytes(_DECODER, "big")


def record_keys(keys: Array, stream: Stream) -> Array:
    """Keys (N, 32) uint8 of the records, from those of the samples; and the other way round.

    The decoder's are XORed with a constant, by which no two hashes of samples differ.
    """
    return keys ^ np.frombuffer(_DECODER, np.uint8) if stream == "decoder" else keys


def count_samples(keys: Iterable[bytes]) -> int:
    """Distinct samples that records with these keys belong to."""
    numbers = (int.from_bytes(key, "big") for key in keys)
    return len({min(number, number ^ _DECODER_NUMBER) for number in numbers})
