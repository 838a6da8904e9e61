"""Keys of the records of each sequence of a sample.

A record has one token count, and a sample of an encoder-decoder has two: its states are
kept in two records. The decoder's has a key of its own, derived from the sample's.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.checks import Array
from edge_runtime.contract.manifest import Stream

from .record import KEY_BYTES

Keys = npt.NDArray[np.uint8]

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


def split_keys(keys: Keys) -> list[bytes]:
    """Takes the keys apart.

    Raises:
        ValueError: they are not (N, 32) uint8.
    """
    if keys.ndim != 2 or keys.shape[1] != KEY_BYTES or keys.dtype != np.uint8:
        raise ValueError(f"keys are {keys.dtype} {keys.shape}, not uint8 (N, {KEY_BYTES})")
    raw = keys.tobytes()
    return [raw[at : at + KEY_BYTES] for at in range(0, len(raw), KEY_BYTES)]
