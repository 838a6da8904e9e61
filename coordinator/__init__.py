"""Plans, schedules and recovers a fine-tuning run over a person's own devices.

What the ``pacplus`` commands do, callable::

    from coordinator import Cluster, parse_emulate, train

    result = train(bundle, data, output=run, cluster=Cluster(emulate=parse_emulate("laptop")))

Names are imported when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devices.specification import parse_emulate
    from edge_runtime.contract.adapter import TrainingOptions
    from edge_runtime.contract.generation import GenerationOptions

    from .api.adapter_config import AdapterChoice
    from .api.describe_data import DataDescription, describe_data
    from .api.merge import MergedModel, merge
    from .api.plan import PlanResult, plan
    from .api.train import TrainResult, train
    from .api.use.evaluate import evaluate
    from .api.use.loaded_run import LoadedRun, load
    from .api.use.predict import Prediction, predict
    from .cluster.host import Cluster
    from .cluster.observer import Observer
    from .data import FieldNames
    from .runs.report import Report

__all__ = [
    "AdapterChoice",
    "Cluster",
    "DataDescription",
    "FieldNames",
    "GenerationOptions",
    "LoadedRun",
    "MergedModel",
    "Observer",
    "PlanResult",
    "Prediction",
    "Report",
    "TrainResult",
    "TrainingOptions",
    "describe_data",
    "evaluate",
    "load",
    "merge",
    "parse_emulate",
    "plan",
    "predict",
    "train",
]

_MODULES = {
    "coordinator.api.adapter_config": ("AdapterChoice",),
    "coordinator.api.describe_data": ("DataDescription", "describe_data"),
    "coordinator.api.use.evaluate": ("evaluate",),
    "coordinator.api.merge": ("MergedModel", "merge"),
    "coordinator.api.plan": ("PlanResult", "plan"),
    "coordinator.api.use.loaded_run": ("LoadedRun", "load"),
    "coordinator.api.use.predict": ("Prediction", "predict"),
    "coordinator.api.train": ("TrainResult", "train"),
    "coordinator.cluster.host": ("Cluster",),
    "coordinator.cluster.observer": ("Observer",),
    "coordinator.data": ("FieldNames",),
    "coordinator.runs.report": ("Report",),
    "devices.specification": ("parse_emulate",),
    "edge_runtime.contract.adapter": ("TrainingOptions",),
    "edge_runtime.contract.generation": ("GenerationOptions",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
