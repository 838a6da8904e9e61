"""Parallel Adapters and their training. PyTorch is imported on first use.

:mod:`.module` states the network, :mod:`.model` what is computed of a batch, and
:mod:`.trainer` what a device drives. The side network's gradients are computed by hand
(:mod:`edge_runtime.side_gradients`), since a step of a classifier is a thousand small
operations to autograd; an encoder-decoder's, a pointer's, and those of heads that read more than
a mean, are autograd's. :mod:`.batch` has the two forms of a batch: packed ones are trained on, and
padded ones are what graphs of ONNX read.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from edge_runtime.contract.errors import MissingExtraError

from .batch import Batch, PackedBatch

if TYPE_CHECKING:
    from .load import load_adapter
    from .module import ParallelAdapter
    from .trainer import Predictor, Trainer

__all__ = [
    "Batch",
    "PackedBatch",
    "ParallelAdapter",
    "Predictor",
    "Trainer",
    "is_available",
    "load_adapter",
]

_MODULES = {
    "ParallelAdapter": "module",
    "Predictor": "trainer",
    "Trainer": "trainer",
    "load_adapter": "load",
}


def is_available() -> bool:
    """Says whether this device can train, that is, whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def __getattr__(name: str) -> Any:
    """Imports the engine when a name of it is first asked for.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingExtraError("torch", "train") from None
        raise
    return getattr(module, name)
