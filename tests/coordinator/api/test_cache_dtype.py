"""Hidden states are cached in a dtype that holds them."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest

from coordinator.api.cache_dtype import choose_cache_dtype
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest, Parity
from export.verify.parity import fp16_error
from tests.conftest import TinyBundleMaker


@dataclasses.dataclass(frozen=True)
class Model:
    """The part of a manifest that decides."""

    parity: Parity
    model_id: str = "gemma"


def manifest(largest=(900.0, 1e5, 2e4), error=(3e-4, 0.2, 3e-4)) -> Manifest:
    parity = Parity(
        worst=0.0,
        limit=1.0,
        per_state=(0.0,) * len(largest),
        tokens=9,
        state_max=largest,
        fp16_error=error,
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


def test_other_data_may_have_larger_states() -> None:
    dtype, notes = choose_cache_dtype(manifest(largest=(4e4,), error=(3e-4,)), (0,), "auto")
    assert (dtype, len(notes)) == ("fp32", 1)


def test_states_too_small_for_fp16_are_cached_in_fp32() -> None:
    dtype, (note,) = choose_cache_dtype(manifest(largest=(1e-6,), error=(0.03,)), (0,), "auto")
    assert dtype == "fp32"
    assert "fp16 would move hidden state 0 by 3.00%" in note


def test_fp16_is_refused_where_it_is_known_not_to_do() -> None:
    with pytest.raises(UsageError, match="--cache-dtype fp16: hidden state 1 of gemma reaches"):
        choose_cache_dtype(manifest(), (0, 1, 2), "fp16")
    assert choose_cache_dtype(manifest(), (0, 2), "fp16") == ("fp16", ())


def test_fp16_that_loses_digits_is_taken_and_said() -> None:
    dtype, notes = choose_cache_dtype(manifest(largest=(1e-6,), error=(0.03,)), (0,), "fp16")
    assert dtype == "fp16"
    assert notes == (
        "--cache-dtype fp16 moves hidden state 0 by up to 3.00%; auto would take fp32",
    )


@pytest.mark.parametrize("wanted", ["fp32", "int8"])
def test_other_dtypes_are_taken_as_they_are(wanted) -> None:
    assert choose_cache_dtype(manifest(), (0, 1, 2), wanted) == (wanted, ())


def test_nothing_is_known_of_an_earlier_bundle() -> None:
    parity = Parity(worst=0.0, limit=1.0, per_state=(0.0,), tokens=9)
    assert choose_cache_dtype(cast(Manifest, Model(parity)), (0,), "auto") == ("fp16", ())


def test_an_export_measures_the_states(tiny_bundle: TinyBundleMaker) -> None:
    manifest = tiny_bundle("bert", "int8").manifest
    assert all(0.1 < largest < 100 for largest in manifest.parity.state_max or ())
    assert all(0 < error < 1e-3 for error in manifest.parity.fp16_error or ())
    layers = range(len(manifest.blocks))
    assert choose_cache_dtype(manifest, layers, "auto") == ("fp16", ())


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
