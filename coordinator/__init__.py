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
    from .api.merge import MergedModel, merge
    from .api.plan import PlanResult, plan
    from .api.train import Prediction, TrainResult, evaluate, predict, train
    from .cluster.host import Cluster
    from .cluster.observer import Observer
    from .data import FieldNames
    from .runs.report import Report

__all__ = [
    "AdapterChoice",
    "Cluster",
    "FieldNames",
    "GenerationOptions",
    "MergedModel",
    "Observer",
    "PlanResult",
    "Prediction",
    "Report",
    "TrainResult",
    "TrainingOptions",
    "evaluate",
    "merge",
    "parse_emulate",
    "plan",
    "predict",
    "train",
]

_MODULES = {
    "AdapterChoice": "coordinator.api.adapter_config",
    "Cluster": "coordinator.cluster.host",
    "FieldNames": "coordinator.data",
    "GenerationOptions": "edge_runtime.contract.generation",
    "MergedModel": "coordinator.api.merge",
    "PlanResult": "coordinator.api.plan",
    "Report": "coordinator.runs.report",
    "TrainingOptions": "edge_runtime.contract.adapter",
    "Observer": "coordinator.cluster.observer",
    "merge": "coordinator.api.merge",
    "parse_emulate": "devices.specification",
    "plan": "coordinator.api.plan",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "coordinator.api.train")), name)
