"""A processor whose uint8 x int8 kernel saturates: x86 without VNNI, emulated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_runtime
from export.samples import check_samples, pad_batch
from export.session import Graph
from tests.export import helpers

QEMU = "qemu-x86_64-static"
PROBE = Path(edge_runtime.__file__).parent / "matmul_integer_probe.onnx"
SCRIPT = Path(__file__).parent / "haswell.py"


def test_where_the_kernel_saturates_the_exact_form_is_taken_and_agrees(minilm_bundle, tmp_path):
    qemu = shutil.which(QEMU)
    if qemu is None:
        pytest.fail(f"{QEMU} is missing; apt-get install qemu-user-static")
    bundle = minilm_bundle("int8")
    blocks = 4  # the embeddings and three layers have every operator; all take twice as long
    plain = helpers.lay_out(bundle, 0, blocks, tmp_path / "plain")
    exact = helpers.lay_out(bundle, 0, blocks, tmp_path / "exact", exact=True)
    inputs = bundle.manifest.inputs
    samples = check_samples(bundle.tokenizer_path, inputs, 30522, 16)
    batch = pad_batch(samples[4:8], inputs)
    np.savez(tmp_path / "inputs.npz", **batch)

    arguments = [PROBE, plain, exact, tmp_path / "inputs.npz", tmp_path / "outputs.npz"]
    environment = os.environ | {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "1"}
    command = [qemu, "-cpu", "Haswell", sys.executable, str(SCRIPT), *map(str, arguments)]
    subprocess.run(command, check=True, timeout=300, env=environment, capture_output=True)

    with np.load(tmp_path / "outputs.npz") as file:
        results = dict(file)
    assert results["saturates"], "the emulated Haswell did not saturate; the test shows nothing"
    native = Graph(plain).run(batch)[f"hidden.{blocks - 1}"]
    tokens = batch["attention_mask"] > 0
    assert cosine(results["chosen"][tokens], native[tokens]).min() >= 0.999
    assert cosine(results["plain"][tokens], native[tokens]).min() < 0.999


def cosine(left, right):
    return (left * right).sum(-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)
