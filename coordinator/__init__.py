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

    from .adapter_shape import AdapterChoice
    from .api import Prediction, TrainResult, evaluate, predict, train
    from .data import FieldNames
    from .hosting import Cluster
    from .merging import MergedModel, merge
    from .plan_api import PlanResult, plan
    from .report import Report
    from .watching import Watcher

__all__ = [
    "AdapterChoice",
    "Cluster",
    "FieldNames",
    "GenerationOptions",
    "MergedModel",
    "PlanResult",
    "Prediction",
    "Report",
    "TrainResult",
    "TrainingOptions",
    "Watcher",
    "evaluate",
    "merge",
    "parse_emulate",
    "plan",
    "predict",
    "train",
]

_MODULES = {
    "AdapterChoice": "coordinator.adapter_shape",
    "Cluster": "coordinator.hosting",
    "FieldNames": "coordinator.data",
    "GenerationOptions": "edge_runtime.contract.generation",
    "MergedModel": "coordinator.merging",
    "PlanResult": "coordinator.plan_api",
    "Report": "coordinator.report",
    "TrainingOptions": "edge_runtime.contract.adapter",
    "Watcher": "coordinator.watching",
    "merge": "coordinator.merging",
    "parse_emulate": "devices.specification",
    "plan": "coordinator.plan_api",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "coordinator.api")), name)
