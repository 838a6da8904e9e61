"""A processor whose uint8 x int8 kernel saturates: x86 without VNNI, emulated.

So that no developer's processor hides what half of the laptops compute.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coordinator.cluster.stage_files import StageCutter
from edge_runtime.contract.codec import encode
from edge_runtime.inference.paired_files import PAIRED_FOLDER
from tests.conftest import SHARED_TRACES
from tests.export.helpers import lay_out, padded
from tests.integer_reference import integer_reference

QEMU = "qemu-x86_64-static"
# Without what the emulation lacks of a Haswell, and would warn of at each start.
PROCESSOR = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-rtm,-invpcid"
ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parent / "haswell_device.py"
MARK = "mark.integer"
BOUND_SECONDS = 1200


def emulated(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    qemu = shutil.which(QEMU)
    if qemu is None:
        pytest.fail(f"{QEMU} is missing; apt-get install qemu-user-static")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }
    environment |= {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [qemu, "-cpu", PROCESSOR, sys.executable, *map(str, arguments)],
        timeout=BOUND_SECONDS,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_emulated_processor_saturates():
    asked = "from edge_runtime.inference import session; print(session.matmul_integer_is_exact())"
    assert emulated("-c", asked).stdout == "False\n"


@pytest.mark.parametrize("kernel", ["exact", "paired"])
def test_a_device_that_would_saturate_computes_what_int64_does(kernel, minilm_bundle, tmp_path):
    bundle, blocks = minilm_bundle("int8"), 4
    plain = lay_out(bundle, 0, blocks, tmp_path / "weights")
    batch = padded(bundle, np.arange(1000, 1025), length=30, rows=3)
    request = StageCutter(bundle).load_stage(0, blocks, layers=(), dtype="fp32")
    np.savez(tmp_path / "message.npz", *(np.frombuffer(part, np.uint8) for part in encode(request)))
    np.savez(tmp_path / "inputs.npz", **batch)
    names = ("message.npz", "weights", "inputs.npz", "outputs.npz")
    ended = emulated(SCRIPT, kernel, *(tmp_path / name for name in names), PYTHONPATH=str(ROOT))
    assert ended.returncode == 0, ended.stderr

    assert bool(list((tmp_path / "weights").glob("*.uint8.bin"))) == (kernel == "exact")
    if kernel == "paired":
        made = tmp_path / "weights" / PAIRED_FOLDER
        shutil.copytree(made, tmp_path / "copy")  # onnx refuses links
        (plain,) = (tmp_path / "copy").glob("stage-*.onnx")
    tokens = batch["attention_mask"] > 0
    with np.load(tmp_path / "outputs.npz") as states:
        for name, expected in integer_reference(plain, batch).items():
            assert cosine(states[name][tokens], expected[tokens]).min() >= 0.999


def cosine(left, right):
    return (left * right).sum(-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)


def test_the_integer_tests_pass_on_a_processor_that_saturates(traces):
    ended = emulated(
        *("-m", "pytest", "-m", "integer", "-q", "-p", "no:cacheprovider", "--durations=20"),
        *sorted(path for path in ROOT.glob("tests/**/test_*.py") if MARK in path.read_text()),
        **{SHARED_TRACES: str(traces)},
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed, ended.stdout[-1000:]
    assert int(passed[1]) >= 8, ended.stdout[-1000:]
