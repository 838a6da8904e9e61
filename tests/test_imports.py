"""Commands start fast: what is imported before it is needed is named here, and nothing else."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.system.deferred_imports import COMPILER
from tests.conftest import TinyBundleMaker
from tests.runs import finished_run

OURS = {"coordinator", "devices", "edge_runtime", "export", "pacplus"}
ANSWERING = {"msgspec", "numpy", "onnxruntime", "safetensors", "tokenizers"}
COMMAND_LINE = {
    *("typer", "rich", "shellingham", "annotated_doc", "pygments", "markdown_it", "mdurl"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection"),
}
"""Typer, and what it needs itself."""

INCIDENTAL = {"_distutils_hack", "cython_runtime", "sitecustomize", "typing_extensions"}
"""What an installation imports by itself, and what compiled modules leave behind."""

HEAVY_OF_OURS = {"coordinator.session.machine", "coordinator.planner", "coordinator.cluster.host"}
NAMES = "print(*(f'module {name}' for name in sys.modules), sep='\\n')"


def imported(code: str, **environment: str) -> set[str]:
    """Names of all modules that are there at the end of ``code``."""
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    lines = [line.split() for line in ended.stdout.splitlines() if line.startswith("module ")]
    return {name for _, name in lines}


def third_parties(modules: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - OURS
    return {
        name for name in tops - INCIDENTAL if not name.startswith(("__", "_cython", "_sysconfig"))
    }


def test_pacplus_is_imported_without_any_other_package() -> None:
    modules = imported(f"import pacplus\n{NAMES}")
    assert third_parties(modules) == set()
    assert {name for name in modules if name.partition(".")[0] in OURS} == {
        "coordinator",
        "pacplus",
    }


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["train", "--help"]])
def test_help_needs_the_command_line_only(arguments: list[str]) -> None:
    code = "from coordinator.cli.main import main\n"
    code += f"try: main({arguments})\nexcept SystemExit: {NAMES}"
    assert third_parties(imported(code)) <= COMMAND_LINE


def test_a_device_waits_for_its_coordinator_with_what_it_needs_to_work(tmp_path: Path) -> None:
    code = f"""
from edge_runtime.transport import KeyPair, KnownCoordinator, KnownCoordinators
KnownCoordinators(__import__("pathlib").Path({str(tmp_path)!r}) / "coordinators.json").add(
    KnownCoordinator(
        address="127.0.0.1:1", public_key=KeyPair.generate().public, device_id="board"
    )
)
from edge_runtime.device import cli, sessions
def waits(*_, **__):
    {NAMES}
    sys.exit(0)
sessions.find_coordinator = waits
cli.main(["start", "--home", {str(tmp_path)!r}])
"""
    tmp_path.chmod(0o700)
    modules = imported(code) - set(COMPILER)  # these are placeholders
    needed = {"msgspec", "numpy", "onnxruntime", "safetensors", "zmq"}
    assert third_parties(modules) - {"psutil"} == needed
    assert not modules & {"asyncio", "concurrent.futures", "multiprocessing", "unittest"}


def test_a_prediction_alone_takes_neither_pytorch_nor_sockets_nor_a_session(
    tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    run = finished_run(tiny_bundle("bert", "none"), tmp_path / "run")
    code = (
        "import pacplus, pathlib, socket\n"
        "def refuse(*_, **__): raise AssertionError('a socket was opened')\n"
        "socket.socket = refuse\n"
        f"model = pacplus.load(pathlib.Path({str(run)!r}))\n"
        f"assert len(model.predict(['the cat'])) == 1\n{NAMES}"
    )
    modules = imported(code, PACPLUS_HOME=str(tmp_path / "home"))
    assert third_parties(modules) == ANSWERING
    assert not modules & (HEAVY_OF_OURS | {"asyncio", "multiprocessing"})
    assert not (tmp_path / "home").exists()


def test_training_takes_pytorch_without_its_compiler() -> None:
    code = f"""
import numpy as np
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.parallel_adapters import Trainer
from tests.edge_runtime.parallel_adapters.samples import config
trainer = Trainer(config(), TrainingOptions(), total_steps=2)
trainer.apply(np.ones(trainer.parameters, np.float32))
{NAMES}
"""
    modules = imported(code)
    assert "torch" in modules
    assert not modules & {"torch._dynamo", "torch._inductor", "sympy"}


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.alone
def test_help_takes_less_than_half_a_second_of_a_core() -> None:
    for package in ("coordinator", "edge_runtime"):
        took = []
        for _ in range(3):
            before = children_seconds()
            subprocess.run(
                [sys.executable, "-m", package, "--help"], stdout=subprocess.DEVNULL, check=True
            )
            took.append(children_seconds() - before)
        assert min(took) < 0.5, package
