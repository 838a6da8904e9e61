"""Checks fields of dataclasses when they are made."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = np.ndarray[Any, Any]


def require(holds: object, problem: str) -> None:
    """Raises ValueError with ``problem`` unless ``holds``."""
    if not holds:
        raise ValueError(problem)


def check_array(name: str, array: Array, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless ``array`` has this dtype and shape."""
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} must be {np.dtype(dtype).name} of shape {shape}")
