"""All blocks of a bundle as one stage that the process serves itself, without links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.inference.session import numerics
from edge_runtime.inference.weight_store import WeightStore

BACKBONE = "backbone.onnx"


def is_whole(manifest: Manifest, config: AdapterConfig) -> bool:
    """Tells whether the bundle's own graph does, which need not be cut.

    It does not on processors whose integer product saturates, where that matters, nor for
    language models of two stacks, whose decoder runs often.
    """
    right = manifest.quantization != "int8" or numerics().kernel == "fast"
    return right and not (config.generative and config.encoder_layers)


class Nobody:
    """Takes messages of a role that has nobody to tell."""

    def to_coordinator(self, message: m.Message) -> None:
        """Does nothing: who asks waits for the answer."""

    def to_peer(self, peer: DeviceId, message: m.Message) -> None:
        """Refuses: there is one device only."""
        raise ValueError(f"{type(message).__name__} to {peer}, which is no other device")

    def wait_for_room(self) -> None:
        """Returns: nothing is sent."""


def whole_stage(manifest: Manifest, config: AdapterConfig, dtype: m.CacheDtype) -> m.LoadStage:
    """Describes the bundle's own graph as a stage, whose graph need not be cut."""
    nothing = np.empty(0, np.uint8)
    stage = m.StageFiles(
        first=0,
        last=len(manifest.blocks),
        streams=tuple(block.stream for block in manifest.blocks),
        carries=(),
        inputs=manifest.inputs,
        graph=nothing,
        exact_graph=nothing,
        files=(),
    )
    return m.LoadStage(
        stage=stage,
        layers=config.layers,
        dtype=dtype,
        hidden_size=manifest.hidden_size,
        num_heads=manifest.num_heads,
    )


def copy_files(request: m.LoadStage, bundle: Path, store: WeightStore) -> None:
    """Copies a stage's weight files into the store, where they are not there yet.

    No links: tools that read models refuse files with several names, those of a bundle included.
    """
    for spec in dict.fromkeys(request.files):
        if not store.has(spec):
            target = store.path(spec)
            fresh = target.with_name(f"{target.name}.{os.getpid()}.part")
            shutil.copyfile(bundle / spec.path, fresh)
            fresh.replace(target)
