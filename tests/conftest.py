"""What several packages' tests share: bundles, each exported once a session."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from export.checkpoint.load import LoadedModel
    from export.partition.stages import Bundle

# What the devices of tests measure needs no precision. Set before anything is imported.
os.environ.setdefault("PACPLUS_MEASURE_SECONDS", "0.1")

BundleMaker = Callable[[str], "Bundle"]
TinyBundleMaker = Callable[[str, str], "Bundle"]


LONGEST_FIRST = ("test_haswell.py", "test_families.py", "test_faults.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with what takes longest, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


SHARED_TRACES = "PACPLUS_TEST_TRACES"
"""Names a folder of traces for the tests that run on an emulated processor."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keeps other workers out while one makes ``path``."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def traces(shared: Path) -> Path:
    """Where exports of the same weights find PyTorch's trace, most of what they take."""
    folder = Path(os.environ.get(SHARED_TRACES) or shared / "traces")
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def traced_once(traces: Path) -> Iterator[None]:
    """Has exports of the same weights share PyTorch's trace."""
    import onnx_ir as ir

    from export import bundle

    trace = bundle.trace

    def cached(loaded: LoadedModel, blocks: int) -> ir.Model:
        model = loaded.backbone
        digest = hashlib.sha256(f"{model.config.model_type} {blocks}".encode())
        for tensor in model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        path = traces / f"{digest.hexdigest()}.onnx"
        with alone(path):
            if not path.exists():
                gc.disable()  # a sixth of a trace's time, which makes millions of objects
                try:
                    ir.save(trace(loaded, blocks), path)
                finally:
                    gc.enable()
        return ir.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "trace", cached)
        yield


def export_once(folder: Path, model: Path, **options: Any) -> Bundle:
    """Exports a checkpoint, or opens what another worker has exported."""
    from export.bundle import export_model
    from export.partition.stages import open_bundle

    with alone(folder):
        if folder.exists():
            return open_bundle(folder, verify=False)
        return export_model(str(model), folder, **options)


@pytest.fixture(scope="session")
def minilm_bundle(shared: Path, traced_once: None) -> BundleMaker:
    """``minilm_bundle("int8")``: the real MiniLM, exported on first use."""
    from tests.minilm import minilm_dir

    return functools.cache(
        lambda quantize: export_once(shared / f"minilm-{quantize}", minilm_dir(), quantize=quantize)
    )


@pytest.fixture(scope="session")
def tiny_model(shared: Path) -> Callable[[str], Path]:
    """``tiny_model("bert")``: the folder of a tiny checkpoint."""
    from tests.models import tiny_model_dir

    def make(family: str) -> Path:
        folder = shared / f"tiny-{family}"
        with alone(folder):
            return folder if folder.exists() else tiny_model_dir(shared, family)

    return functools.cache(make)


@pytest.fixture(scope="session")
def tiny_bundle(
    shared: Path, tiny_model: Callable[[str], Path], traced_once: None
) -> TinyBundleMaker:
    """``tiny_bundle("bert", "none")``: a tiny checkpoint, exported on first use.

    For the task that needs most of it: a language model has its head.
    """
    from tests.models import widest_task

    def make(family: str, quantize: str) -> Bundle:
        folder = shared / f"{family}-{quantize}"
        task = widest_task(family)
        return export_once(folder, tiny_model(family), task=task, quantize=quantize)

    return functools.cache(make)
