"""Small made-up samples, and a cache to keep them in."""

import numpy as np

from edge_runtime.cache.store import ActivationCache
from edge_runtime.contract.cache_format.encoding import encode

DIGEST = "ab" * 32
HIDDEN_SIZE = 8
ALL_LAYERS = range(4)


def open_cache(root, dtype="fp32", **options):
    return ActivationCache(root, DIGEST, dtype, HIDDEN_SIZE, **{"numerics": "test", **options})


def key_of(number):
    return np.full(32, number, np.uint8)


def tokens_of(number):
    return 1 + number % 4


def states_of(number, layers=ALL_LAYERS):
    """(L, tokens, HIDDEN_SIZE) float32, the same for the same number and layer."""
    shape = (tokens_of(number), HIDDEN_SIZE)
    made = [np.random.default_rng([number, layer]).normal(size=shape) for layer in layers]
    return np.stack(made).astype(np.float32)


def keys_of(numbers):
    return np.array([key_of(number) for number in numbers], np.uint8).reshape(-1, 32)


def append(cache, numbers, layers=ALL_LAYERS, **options):
    lengths = np.array([tokens_of(number) for number in numbers])
    encoded = encode(
        np.concatenate([states_of(number, layers) for number in numbers], axis=1), cache.dtype
    )
    return cache.append(keys_of(numbers), lengths, layers, encoded, **options)


def assert_reads(cache, numbers, layers=ALL_LAYERS):
    """The cache gives exactly what was appended (fp32), padded with zeros."""
    hidden, lengths = cache.read_batch(keys_of(numbers), layers)
    assert lengths.tolist() == [tokens_of(number) for number in numbers]
    expected = np.zeros((len(layers), len(numbers), max(lengths), HIDDEN_SIZE), np.float32)
    for at, number in enumerate(numbers):
        expected[:, at, : tokens_of(number)] = states_of(number, layers)
    np.testing.assert_array_equal(hidden, expected)
