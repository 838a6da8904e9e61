from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import write_tensors
from edge_runtime.language_head.frozen_head import CHUNK_ROWS, CHUNK_TOKENS, Added, FrozenHead

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

V, D = CHUNK_TOKENS + 37, 16


def config(**changes: Any) -> AdapterConfig:
    return AdapterConfig(
        hidden_size=D, reduction=2, layers=(0, 1), task="causal-lm", num_outputs=V, **changes
    )


def tensors(*, int8: bool = False, bias: bool = False) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {"weight": random.normal(size=(V, D)).astype(np.float32)}
    if int8:
        arrays["weight"] = random.integers(-128, 128, (V, D)).astype(np.int8)
        arrays["scale"] = random.uniform(0.01, 0.02, (V, 1)).astype(np.float32)
    if bias:
        arrays["bias"] = random.normal(size=V).astype(np.float32)
    return arrays


def opened(
    folder: Path, arrays: dict[str, NDArray[Any]], adapter: AdapterConfig | None = None
) -> FrozenHead:
    path = folder / "head.safetensors"
    path.write_bytes(write_tensors(arrays))
    return FrozenHead.open(path, adapter or config())


def features(rows: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(rows, D)).astype(np.float32)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_logits_are_those_of_the_formula(
    tmp_path: Path, int8: bool, bias: bool, softcap: float
) -> None:
    arrays = tensors(int8=int8, bias=bias)
    adapter = config(logit_scale=0.5, logit_softcap=softcap)
    head = opened(tmp_path, arrays, adapter)

    weight = arrays["weight"].astype(np.float64) * arrays.get("scale", 1.0)
    expected = 0.5 * (features().astype(np.float64) @ weight.T) + arrays.get("bias", 0.0)
    if softcap:
        expected = softcap * np.tanh(expected / softcap)

    logits = head.logits(features())
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def added(rows: int, tokens: int = 5) -> Added:
    """To few tokens of the first and the last piece, so that some are equal; the last are none."""
    random = np.random.default_rng(2)
    ids = random.choice([0, 3, CHUNK_TOKENS - 1, CHUNK_TOKENS, V - 1], (rows, tokens))
    ids[:, -1] = -1
    return Added(random.normal(size=ids.shape).astype(np.float32), ids)


def test_what_is_added_is_summed_by_token() -> None:
    of_two = Added(
        np.array([[1, 2, 4, 8], [16, 32, 64, 128]], np.float32),
        np.array([[5, 7, 5, 6], [4, 9, -1, 9]]),
    )
    logits = np.zeros((2, 4), np.float32)
    of_two.add_to(logits, first=5)  # of the tokens 5 to 8
    np.testing.assert_array_equal(logits, [[5, 8, 2, 0], [0, 0, 0, 0]])
    of_two.rows(slice(1, 2)).add_to(logits[:1], first=6)  # of the tokens 6 to 9
    np.testing.assert_array_equal(logits[0], [5, 8, 2, 160])


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_losses_are_those_of_logits_with_what_is_added(tmp_path: Path, softcap: float) -> None:
    rows = CHUNK_ROWS + 9
    head = opened(tmp_path, tensors(int8=True, bias=True), config(logit_softcap=softcap))
    targets = np.where(np.arange(rows) % 2, added(rows).tokens[:, 0], np.arange(rows))
    logits = head.logits(features(rows))
    added(rows).add_to(logits)
    expected = np.log(np.exp(logits.astype(np.float64)).sum(1)) - logits[np.arange(rows), targets]

    losses, hits = head.losses(features(rows), targets, added(rows))

    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(hits, logits[np.arange(rows), targets] == logits.max(1))
    without, _ = head.losses(features(rows), targets)
    assert np.abs(without - losses).max() > 0.5


def test_an_int8_weight_stays_int8_in_memory(tmp_path: Path) -> None:
    head = opened(tmp_path, tensors(int8=True))
    assert head.weight.dtype == np.int8
    picked = np.array([V - 1, 0, 5])
    np.testing.assert_array_equal(head.rows_of(picked), head.rows(slice(None))[picked])


def test_the_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    arrays = tensors(int8=True, bias=True)
    head = opened(tmp_path, arrays)
    for found, expected in (
        (head.weight, arrays["weight"]),
        (head.row_scale, arrays["scale"]),
        (head.bias, arrays["bias"]),
    ):
        assert found is not None
        np.testing.assert_array_equal(found, expected)
        assert not found.flags.writeable
        while not isinstance(found, np.memmap):
            found = found.base
            assert found is not None


def test_a_damaged_or_missing_file_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(BadInputError, match="cannot be read"):
        FrozenHead.open(path, config())
    path.touch()
    with pytest.raises(BadInputError, match=r"head\.safetensors.*truncated"):
        FrozenHead.open(path, config())
    path.write_bytes(write_tensors(tensors())[:-1])
    with pytest.raises(BadInputError, match=r"head\.safetensors.*truncated"):
        FrozenHead.open(path, config())
    path.write_bytes(write_tensors(tensors()).replace(b'"F32"', b'"U32"'))
    with pytest.raises(BadInputError, match=r"head\.safetensors: dtype U32 is not supported"):
        FrozenHead.open(path, config())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.zeros((V, D + 1), np.float32)}, "a weight of shape"),
        ({"weight": np.zeros((V, D), np.int8)}, "float32, or int8 with a scale"),
        ({"scale": np.ones((V, 1), np.float32)}, "float32, or int8 with a scale"),
        ({"bias": np.ones(V, np.float64)}, "bias must be float32"),
        ({"bias": np.ones((V, 1), np.float32)}, "bias must be float32"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, NDArray[Any]], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        opened(tmp_path, {**tensors(), **change})
    with pytest.raises(BadInputError, match="no weight"):
        opened(tmp_path, {"bias": np.ones(V, np.float32)})


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import edge_runtime.language_head.frozen_head"
    subprocess.run([sys.executable, "-c", code], check=True)
