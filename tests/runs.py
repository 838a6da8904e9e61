"""Finished runs without the training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from coordinator.runs.run_folder import RunFolder
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions, adapter_weights
from edge_runtime.parallel_adapters import Trainer
from export.partition.stages import Bundle
from tests.coordinator.runs.test_run_folder import SETTINGS
from tests.edge_runtime.parallel_adapters import samples

LABELS = ("no", "yes")


def unfinished_run(bundle: Bundle, path: Path) -> RunFolder:
    """The folder of a run that has just begun; it caches states as they are."""
    settings = dataclasses.replace(SETTINGS, bundle=str(bundle.path), cache_dtype="fp32")
    return RunFolder.create(path, settings)


def finished_run(bundle: Bundle, path: Path) -> Path:
    """A run with a random adapter that tells ``LABELS`` apart."""
    config = AdapterConfig(
        hidden_size=bundle.manifest.hidden_size,
        layers=tuple(range(len(bundle.manifest.blocks))),
        task="classification",
        num_outputs=len(LABELS),
        labels=LABELS,
        bundle_digest=bundle.manifest.digest,
    )
    trainer = samples.moved(Trainer(config, TrainingOptions(), 1), 0.3)
    unfinished_run(bundle, path).write_adapter(config, adapter_weights(trainer.state()))
    return path
