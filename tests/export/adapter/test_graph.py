from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.parallel_adapters import Batch
from export.adapter.graph import adapter_onnx
from tests.edge_runtime.parallel_adapters import samples

REGRESSION = {
    "task": "regression",
    "num_outputs": 1,
    "target_mean": 3.5,
    "target_scale": 2.0,
}


def trained(kind="attention", **changes):
    """An adapter with random weights: its trainer, its configuration, and the saved weights."""
    trainer = samples.moved(samples.trainer(kind, **changes))
    return trainer, samples.config(kind, **changes), adapter_weights(trainer.state())


def batch(layers, size, seed=0, junk=50.0):
    """Samples of unequal lengths, one of a single token, with junk as padding."""
    rng = np.random.default_rng(seed)
    lengths = np.append(1, rng.integers(2, 12, size - 1))
    shape = (layers, size, int(lengths.max()), samples.HIDDEN_SIZE)
    hidden = rng.standard_normal(shape).astype(np.float32) + 0.5
    hidden[:, np.arange(shape[2]) >= lengths[:, None]] *= junk
    starts = rng.integers(0, lengths + 1)
    return Batch(
        hidden=hidden, lengths=lengths, second_starts=starts, targets=np.zeros(size, np.int64)
    )


def run(model, fed):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    mask = np.arange(fed.hidden.shape[2]) < fed.lengths[:, None]
    values = {
        "hidden": fed.hidden,
        "attention_mask": mask.astype(np.int64),
        "second_starts": fed.second_starts,
    }
    names = [value.name for value in session.get_inputs()]
    (outputs,) = session.run(["outputs"], {name: values[name] for name in names})
    return outputs


@pytest.mark.parametrize("task", [{}, REGRESSION], ids=["classes", "regression"])
@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
@pytest.mark.parametrize(
    "shape",
    [
        {"kind": "attention"},
        {"kind": "mlp"},
        {"kind": "attention", "num_heads": 1, "feed_forward_ratio": 2, "layers": (0, 2, 5, 6)},
        {"kind": "mlp", "layers": (6,)},
        {"kind": "mlp", "layers": tuple(range(9))},
    ],
    ids=["attention", "mlp", "some layers", "one layer", "many layers"],
)
def test_it_computes_what_the_trainer_computes(shape, pair, task):
    trainer, config, weights = trained(**shape, pair=pair, **task)
    model = adapter_onnx(config, weights)
    for size in (1, 2, 9):
        fed = batch(len(config.layers), size)
        expected = trainer.outputs(fed)
        outputs = run(model, fed)
        assert outputs.shape == expected.shape
        assert outputs.dtype == (np.float64 if task else np.float32)
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.05  # of nine samples: it tells them apart


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_padding_has_no_effect(kind):
    _, config, weights = trained(kind, pair=True)
    model = adapter_onnx(config, weights)
    one, other = (run(model, batch(3, 9, junk=junk)) for junk in (0, 1000))
    np.testing.assert_array_equal(one, other)


def test_only_a_pair_has_second_starts():
    for pair, names in {False: 2, True: 3}.items():
        _, config, weights = trained(pair=pair)
        session = onnxruntime.InferenceSession(
            adapter_onnx(config, weights), providers=["CPUExecutionProvider"]
        )
        inputs = ["hidden", "attention_mask", "second_starts"]
        assert [value.name for value in session.get_inputs()] == inputs[:names]


def test_equal_weights_give_equal_bytes_that_hold_them():
    _, config, weights = trained()
    model = adapter_onnx(config, weights)
    assert model == adapter_onnx(config, weights)
    assert read_tensors(weights)["up.weight"].tobytes() in model


def test_weights_of_another_adapter_are_bad_input():
    _, config, weights = trained()
    _, wider, _ = trained(pair=True)
    with pytest.raises(BadInputError, match=r"'head\.weight' has shape \(24, 3\), not \(48, 3\)"):
        adapter_onnx(wider, weights)
    tensors = read_tensors(weights)
    del tensors["gate"]
    with pytest.raises(BadInputError, match="'gate' is missing"):
        adapter_onnx(config, write_tensors(tensors))
    with pytest.raises(BadInputError, match="truncated"):
        adapter_onnx(config, weights[:-1])


def test_building_it_needs_neither_torch_nor_transformers(tmp_path):
    _, _, weights = trained()
    (tmp_path / "weights").write_bytes(weights)
    code = (
        "import sys\n"
        "sys.modules.update(torch=None, transformers=None, onnxruntime=None)\n"
        "from pathlib import Path\n"
        "from edge_runtime.contract.adapter import AdapterConfig\n"
        "from export.adapter.graph import adapter_onnx\n"
        "config = AdapterConfig(hidden_size=24, reduction=3, num_heads=2, layers=(0, 1, 2),\n"
        "    task='classification', num_outputs=3)\n"
        "assert adapter_onnx(config, Path(sys.argv[1]).read_bytes())\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "weights"], check=True)
