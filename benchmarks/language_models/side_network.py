"""The side network, trained by pacplus's public API with this machine as the only device."""

from __future__ import annotations

import dataclasses
import resource
import shutil
from pathlib import Path
from typing import Literal

from coordinator import AdapterChoice, TrainingOptions, train

from .results import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to train; ``loss`` is ``candidates`` or ``exact``."""

    loss: Literal["candidates", "exact"]
    seed: int
    epochs: int
    rate: float
    batch_size: int
    adapter: Literal["attention", "mlp", "pointer"]
    reduction: int
    max_length: int | None


def train_side_network(bundle: Path, files: dict[str, Path], options: Options, folder: Path) -> Row:
    """Trains once, in a new run folder that is removed again; the cache stays.

    Returns:
        Losses before and after, and after each epoch; CPU-seconds of the
        device by phase, and of this process beside it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    began = _own_seconds()
    report = train(
        bundle,
        files["train"],
        evaluation=files["dev"],
        output=folder,
        adapter=AdapterChoice(kind=options.adapter, reduction=options.reduction),
        options=TrainingOptions(
            epochs=options.epochs,
            learning_rate=options.rate,
            batch_size=options.batch_size,
            seed=options.seed,
            loss=options.loss,
        ),
        max_length=options.max_length,
        keep="best",
        patience=0,  # the curve shows every epoch
    ).report
    (device,) = report.devices
    fill = report.fill
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "before": report.eval["before"]["loss"],
        "after": report.eval["after"]["loss"],
        "by_epoch": [epoch.eval["loss"] for epoch in report.epochs],
        "train_losses": [round(epoch.train_loss, 4) for epoch in report.epochs],
        "parameters": report.parameters,
        "computed": fill.computed,
        "all_computed": fill.computed == fill.samples,
        "cpu_seconds": dict(device.cpu_seconds),
        "coordinator_cpu_seconds": round(_own_seconds() - began, 2),
        "peak_megabytes": round(device.peak_rss_bytes / 1e6),
    }


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
