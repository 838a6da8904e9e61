"""Fine-tunes a personal language model on devices that its owner already has.

::

    from pathlib import Path

    import pacplus

    bundle, run = Path("minilm.bundle"), Path("run")
    pacplus.export_model("model", bundle, quantize="int8")
    pacplus.train(bundle, Path("train.jsonl"), output=run)
    pacplus.predict(run, ["wake me at seven"])

Names are imported when they are first used: each needs the packages of its own extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import coordinator

if TYPE_CHECKING:
    from coordinator import (
        AdapterChoice,
        Cluster,
        FieldNames,
        GenerationOptions,
        MergedModel,
        Observer,
        PlanResult,
        Prediction,
        Report,
        TrainingOptions,
        TrainResult,
        evaluate,
        merge,
        parse_emulate,
        plan,
        predict,
        train,
    )
    from export.bundle import export_model

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
    "export_model",
    "merge",
    "parse_emulate",
    "plan",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "export_model":
        from export.bundle import export_model

        return export_model
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(coordinator, name)
