"""Checks fields of dataclasses when they are made."""

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = np.ndarray[Any, Any]

MAX_AMOUNT = 1 << 53
"""Most that a count, a size or a time may be: beyond it float64 skips whole numbers."""


def require(holds: object, problem: str) -> None:
    """Raises ValueError with ``problem`` unless ``holds``."""
    if not holds:
        raise ValueError(problem)


def check_array(name: str, array: Array, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless ``array`` has this dtype and shape."""
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} must be {np.dtype(dtype).name} of shape {shape}")


def check_keys(keys: Array) -> None:
    """Raises ValueError unless they are samples' keys, (N, 32) uint8."""
    check_array("keys", keys, np.uint8, (*keys.shape[:1], 32))


def check_tokens(tokens: Array | None) -> None:
    """Raises ValueError unless they are token ids, (T,) int32 and not negative, or None."""
    if tokens is not None:
        check_array("tokens", tokens, np.int32, (tokens.size,))
        require(tokens.min(initial=0) >= 0, "tokens must not be negative")


def is_finite(values: Array) -> bool:
    """True if no value of a float array is infinite or not a number."""
    return not values.size or math.isfinite(max(float(values.max()), -float(values.min())))


def require_amounts(instance: Any, *names: str) -> None:
    """Raises ValueError unless these fields are at least 0, finite, and no more than 2**53."""
    for name in names:
        require(0 <= getattr(instance, name) <= MAX_AMOUNT, f"{name} must not be negative or huge")
