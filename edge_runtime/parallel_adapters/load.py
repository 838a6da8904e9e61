"""Trained adapters as PyTorch modules."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import from_plain
from edge_runtime.contract.tensors import read_tensors

from .flat import FlatParameters
from .module import ParallelAdapter

FOLDER, CONFIG, WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
"""Where a run folder has its trained adapter."""


def load_adapter(run: str | os.PathLike[str]) -> ParallelAdapter:
    """Loads the trained adapter of a run as a PyTorch module.

    It reads the backbone's hidden states ``adapter.config.layers``, see
    :meth:`.module.ParallelAdapter.forward`. The bundle has the head that reads a language
    model's features.

    Args:
        run: the -o folder of ``pacplus train``.

    Raises:
        BadInputError: the run has not got so far, or a file is damaged.
    """
    config, weights = (Path(run) / FOLDER / name for name in (CONFIG, WEIGHTS))
    try:
        fields, data = json.loads(config.read_bytes()), weights.read_bytes()
    except (OSError, ValueError) as error:
        raise BadInputError(f"{run}: has no trained adapter that can be read ({error})") from None
    return from_bytes(from_plain(AdapterConfig, fields, str(config)), data, str(weights))


def from_bytes(config: AdapterConfig, weights: bytes, where: str = WEIGHTS) -> ParallelAdapter:
    """Makes the module from ``adapter_model.safetensors``.

    Raises:
        BadInputError: ``weights`` are damaged or of an adapter of another shape.
    """
    adapter = ParallelAdapter(config)
    FlatParameters(adapter, trained=False).load(read_tensors(weights, where), where)
    return adapter
