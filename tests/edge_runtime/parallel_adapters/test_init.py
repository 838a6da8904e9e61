from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import edge_runtime.parallel_adapters as training
assert "torch" not in sys.modules
sys.modules["torch"] = None
try:
    training.Trainer
except Exception as error:
    print(type(error).__name__, error)
"""


def test_torch_is_asked_for_late_and_its_absence_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("MissingExtraError torch is not installed; install it with: ")
