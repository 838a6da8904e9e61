"""ONNX Runtime tells its makers nothing, and leaves no id of the machine behind.

With ``ORT_DISABLE_TELEMETRY=0`` its wheels for Linux write both into an empty home.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime

ROOT = Path(__file__).parents[3]
GRAPH = Path(edge_runtime.__file__).parent / "inference" / "matmul_integer_probe.onnx"
ON_A_DEVICE = f"""
from edge_runtime.inference.session import GraphSession
GraphSession(open({str(GRAPH)!r}, "rb").read(), 1, "a probe")
"""
AT_EXPORT = f"""
from pathlib import Path
from export.verify.ort_session import Graph
Graph(Path({str(GRAPH)!r}))
"""


@pytest.mark.parametrize("program", [ON_A_DEVICE, AT_EXPORT], ids=["device", "export"])
def test_a_session_leaves_nothing_at_home(program: str, tmp_path: Path) -> None:
    # Nothing else of the environment, since ONNX Runtime is silent of itself where CI is told.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []
