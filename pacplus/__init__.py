"""Fine-tunes a personal language model on devices that its owner already has.

::

    from pathlib import Path

    import pacplus

    bundle, run = Path("minilm.bundle"), Path("run")
    pacplus.export_model("model", bundle, quantize="int8")
    pacplus.train(bundle, Path("train.jsonl"), output=run)
    pacplus.predict(run, ["wake me at seven"])
    adapter = pacplus.load_adapter(run)  # a torch.nn.Module with the trained weights

Names are imported when they are first used: each needs the packages of its own extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import coordinator

if TYPE_CHECKING:
    from coordinator import *  # noqa: F403
    from edge_runtime.parallel_adapters import load_adapter
    from export.bundle import export_model

__all__ = [*coordinator.__all__, "export_model", "load_adapter"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elsewhere = {"export_model": "export.bundle", "load_adapter": "edge_runtime.parallel_adapters"}
    return getattr(importlib.import_module(elsewhere.get(name, "coordinator")), name)
