"""Rounds gradients for their way: half precision under one power-of-two scale, half the bytes.

PyTorch converts ten times faster than numpy does, and this happens in every step.
"""

from __future__ import annotations

import math

import torch

from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import UnresumableError

MAX_EXPONENT = 120


class HalfPrecision:
    """Rounds to float16; implements :class:`edge_runtime.training.allreduce.Rounding`.

    The largest value lands within a factor of two below 2^15, so nothing overflows, and
    what falls below 2^-24 of that scale is lost, as it mostly would be in the float32 sum.
    """

    def shrink(self, values: Array) -> tuple[Array, float]:
        """Rounds (n,) float32 to float16.

        Raises:
            UnresumableError: a value is not finite.
        """
        tensor = torch.from_numpy(values)
        # numpy's reductions are vectorised, and PyTorch's largest absolute value is not.
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        if not math.isfinite(largest):
            raise UnresumableError("the gradient is not finite; lower the learning rate")
        exponent = 15 - math.frexp(largest)[1] if largest else 0
        scale = 2.0 ** max(-MAX_EXPONENT, min(MAX_EXPONENT, exponent))
        rounded: Array = (tensor * scale).half().numpy()
        return rounded, scale

    def add(self, total: Array, values: Array, scale: float) -> None:
        """Adds ``values`` / ``scale`` to ``total``, (n,) float32, in place.

        Raises:
            UnresumableError: a value is not finite.
        """
        # Messages are read-only views, which PyTorch warns of; nothing here writes to them.
        source = values if values.flags.writeable else values.copy()
        addend = torch.from_numpy(source).float()
        if not math.isfinite(float(addend.sum())):
            raise UnresumableError("the gradient is not finite; lower the learning rate")
        torch.from_numpy(total).add_(addend, alpha=1 / scale)
