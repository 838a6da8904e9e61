"""What several packages' tests share: bundles, each exported once a session."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from export.stages import Bundle

# What the devices of tests measure needs no precision. Set before anything is imported.
os.environ.setdefault("PACPLUS_MEASURE_SECONDS", "0.1")

BundleMaker = Callable[[str], "Bundle"]
TinyBundleMaker = Callable[[str, str], "Bundle"]


@pytest.fixture(autouse=True)
def denormals_kept() -> Iterator[None]:
    """Undoes what a trainer in this process does to arithmetic: tiny numbers count again."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def traced_once() -> Iterator[None]:
    """Has exports of the same weights share PyTorch's trace, which takes most of their time."""
    import onnx_ir as ir

    from export import bundle

    trace, known = bundle.trace, {}

    def cached(model: Any, family: Any, inputs: Any, blocks: int) -> ir.Model:
        digest = hashlib.sha256(f"{model.config.model_type} {blocks}".encode())
        for tensor in model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        key = digest.hexdigest()
        if key not in known:
            known[key] = ir.to_proto(trace(model, family, inputs, blocks))
        return ir.from_proto(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "trace", cached)
        yield


@pytest.fixture(scope="session")
def minilm_bundle(tmp_path_factory: pytest.TempPathFactory, traced_once: None) -> BundleMaker:
    """``minilm_bundle("int8")``: the real MiniLM, exported on first use."""
    from export.bundle import export_model
    from tests.minilm import minilm_dir

    folder = tmp_path_factory.mktemp("minilm")

    @functools.cache
    def make(quantize: str) -> Bundle:
        return export_model(str(minilm_dir()), folder / quantize, quantize=quantize)

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_model("bert")``: the folder of a tiny checkpoint."""
    from tests.models import tiny_model_dir

    folder = tmp_path_factory.mktemp("models")
    return functools.cache(lambda family: tiny_model_dir(folder, family))


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[[str], Path],
    traced_once: None,
) -> TinyBundleMaker:
    """``tiny_bundle("bert", "none")``: a tiny checkpoint, exported on first use.

    For the task that needs most of it: a language model has its head.
    """
    from export.bundle import export_model
    from tests.models import widest_task

    folder = tmp_path_factory.mktemp("bundles")

    @functools.cache
    def make(family: str, quantize: str) -> Bundle:
        return export_model(
            str(tiny_model(family)),
            folder / f"{family}-{quantize}",
            task=widest_task(family),
            quantize=quantize,
        )

    return make
