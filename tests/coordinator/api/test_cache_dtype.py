"""Hidden states are cached in a dtype that holds them."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest

from coordinator.api.cache_dtype import choose_cache_dtype
from edge_runtime.contract.cache_format.encoding import decode_into, encode
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest, Parity
from export.verify.parity import fp16_error, int8_error
from tests.conftest import TinyBundleMaker


@dataclasses.dataclass(frozen=True)
class Model:
    """The part of a manifest that decides."""

    parity: Parity
    model_id: str = "gemma"


def manifest(
    largest=(900.0, 1e5, 2e4), error=(3e-4, 0.2, 3e-4), int8_error=(0.3, 0.3, 0.3)
) -> Manifest:
    parity = Parity(
        worst=0.0,
        limit=1.0,
        per_state=(0.0,) * len(largest),
        tokens=9,
        state_max=largest,
        fp16_error=error,
        int8_error=int8_error,
    )
    return cast(Manifest, Model(parity))


def test_states_beyond_fp16_are_cached_in_fp32_with_a_note() -> None:
    dtype, notes = choose_cache_dtype(manifest(), (0, 1, 2), "auto")
    assert dtype == "fp32"
    assert notes == (
        "the cache is in fp32: hidden state 1 of gemma reaches 100000, too close to fp16's 65504",
    )


def test_states_that_the_adapter_does_not_read_do_not_matter() -> None:
    assert choose_cache_dtype(manifest(), (0, 2), "auto") == ("fp16", ())


def test_int8_is_taken_where_it_moves_states_little() -> None:
    little = manifest(int8_error=(0.02, 0.3, 0.02))
    assert choose_cache_dtype(little, (0, 2), "auto") == ("int8", ())
    much = manifest(int8_error=(0.02, 0.3, 0.03))
    assert choose_cache_dtype(much, (0, 2), "auto") == ("fp16", ())


def test_states_that_do_not_fit_fp16_may_fit_int8() -> None:
    small = manifest((900.0, 1e5), (3e-4, 0.2), (0.02, 0.02))
    assert choose_cache_dtype(small, (0, 1), "auto") == ("int8", ())


def test_other_data_may_have_larger_states() -> None:
    dtype, notes = choose_cache_dtype(manifest((4e4,), (3e-4,), (0.3,)), (0,), "auto")
    assert (dtype, len(notes)) == ("fp32", 1)


def test_states_too_small_for_fp16_are_cached_in_fp32() -> None:
    dtype, (note,) = choose_cache_dtype(manifest((1e-6,), (0.03,), (0.3,)), (0,), "auto")
    assert dtype == "fp32"
    assert "fp16 would move hidden state 0 by 3.00%" in note


def test_fp16_is_refused_where_it_is_known_not_to_do() -> None:
    with pytest.raises(UsageError, match="--cache-dtype fp16: hidden state 1 of gemma reaches"):
        choose_cache_dtype(manifest(), (0, 1, 2), "fp16")
    assert choose_cache_dtype(manifest(), (0, 2), "fp16") == ("fp16", ())


def test_fp16_that_loses_digits_is_taken_and_said() -> None:
    dtype, notes = choose_cache_dtype(manifest((1e-6,), (0.03,), (0.3,)), (0,), "fp16")
    assert dtype == "fp16"
    assert notes == (
        "--cache-dtype fp16 moves hidden state 0 by up to 3.00%; auto would take fp32",
    )


@pytest.mark.parametrize("wanted", ["fp32", "int8"])
def test_other_dtypes_are_taken_as_they_are(wanted) -> None:
    assert choose_cache_dtype(manifest(), (0, 1, 2), wanted) == (wanted, ())


def test_nothing_is_known_of_an_earlier_bundle() -> None:
    parity = Parity(worst=0.0, limit=1.0, per_state=(0.0,), tokens=9)
    bundle = cast(Manifest, Model(parity))
    assert choose_cache_dtype(bundle, (0,), "auto") == ("fp16", ())


def test_of_an_earlier_bundle_int8_is_not_known_to_do() -> None:
    assert choose_cache_dtype(manifest(int8_error=None), (0, 2), "auto") == ("fp16", ())


def test_an_export_measures_the_states(tiny_bundle: TinyBundleMaker) -> None:
    manifest = tiny_bundle("bert", "int8").manifest
    assert all(0.1 < largest < 100 for largest in manifest.parity.state_max or ())
    assert all(0 < error < 1e-3 for error in manifest.parity.fp16_error or ())
    assert all(1e-3 < error < 0.025 for error in manifest.parity.int8_error or ())
    layers = range(len(manifest.blocks))
    assert choose_cache_dtype(manifest, layers, "auto") == ("int8", ())


@pytest.mark.parametrize(
    ("factor", "offset", "least", "most"),
    [
        (1.0, 0.0, 1e-4, 5e-4),
        (1e4, 0.0, 1e-4, 5e-4),
        (1e5, 0.0, 0.1, 1.0),  # beyond the range
        (1e-7, 0.0, 0.1, 1.0),  # below it
        (1.0, 1e4, 0.1, 2.0),  # differences that the values' size hides
    ],
)
def test_the_error_of_fp16_is_what_an_adapter_would_see(factor, offset, least, most) -> None:
    hidden = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    error = fp16_error((hidden * np.float32(factor) + np.float32(offset)).astype(np.float32))
    assert least < error.max() < most


def test_the_error_of_int8_is_that_of_the_caches_own_rounding() -> None:
    hidden = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    hidden[0, 7] = 1e4  # crushes the others of its group
    decoded = np.empty_like(hidden)
    decode_into(encode(hidden, "int8"), decoded, "int8")
    error = int8_error(hidden)
    assert np.all((error > 0) == (decoded != hidden).any(-1))
    assert np.all((error[1:] > 1e-3) & (error[1:] < 0.02))
