"""Parallel Adapters and their training. PyTorch is imported on first use."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from edge_runtime.contract.errors import MissingExtraError

from .batch import Batch

if TYPE_CHECKING:
    from .trainer import Predictor, Trainer

__all__ = ["Batch", "Predictor", "Trainer", "is_available"]


def is_available() -> bool:
    """Whether this device can train, that is, whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def __getattr__(name: str) -> Any:
    """Imports the engine when a name of it is first asked for.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    if name not in ("Predictor", "Trainer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import trainer
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingExtraError("torch", "train") from None
        raise
    return getattr(trainer, name)
