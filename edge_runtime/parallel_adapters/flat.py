"""A module's parameters and gradients in one flat buffer each.

An optimizer step and an all-reduce each touch a single array that way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from edge_runtime.contract.errors import BadInputError

from .parameters import in_flat_order, initial_values, is_decayed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .module import ParallelAdapter


class FlatParameters:
    """All parameters of an adapter, whose own become views of the flat buffer.

    Gradients add up in ``gradients``: it is the callers' to set to zero.

    Attributes:
        values: (P,) float32.
        gradients: (P,) float32; empty without.
        decayed: number of leading values that weight decay applies to.
    """

    def __init__(self, adapter: ParallelAdapter, *, trained: bool = True) -> None:
        """Takes an adapter's parameters over; without gradients unless it is to be trained."""
        parameters = dict(adapter.named_parameters())
        self._config = adapter.config
        self._shapes = {name: tuple(parameters[name].shape) for name in in_flat_order(parameters)}
        sizes = {name: math.prod(shape) for name, shape in self._shapes.items()}
        self.decayed = sum(size for name, size in sizes.items() if is_decayed(name))
        self.values = torch.zeros(sum(sizes.values()))
        self.gradients = torch.zeros_like(self.values) if trained else torch.empty(0)
        for name, value in self._views(self.values).items():
            parameters[name].data = value
        for name, gradient in self._views(self.gradients).items() if trained else ():
            parameters[name].grad = gradient

    def _views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = torch.split(buffer, [math.prod(shape) for shape in self._shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def initialize(self, seed: int, given: Mapping[str, NDArray[np.float32]]) -> None:
        """Sets the initial values.

        Args:
            seed: of the generated values.
            given: values to start from in place of generated ones, for some or all of the
                tensors.

        Raises:
            BadInputError: ``given`` has a tensor that this adapter has not, or one of another
                shape or dtype.
        """
        where = "initial adapter weights"
        for name in given:
            if name not in self._shapes:
                raise BadInputError(f"{where}: this adapter has no tensor {name[:80]!r}")
            check_tensor(given, name, self._shapes[name], np.dtype(np.float32), where)
        values = self.named()
        for name, generated in initial_values(self._config, self._shapes, seed):
            np.copyto(values[name], given.get(name, generated))

    def named(self) -> dict[str, NDArray[np.float32]]:
        """Every parameter by name, as views."""
        return {name: value.numpy() for name, value in self._views(self.values).items()}

    def named_gradients(self) -> dict[str, NDArray[np.float32]]:
        """Every gradient by its parameter's name, as views."""
        return {name: value.numpy() for name, value in self._views(self.gradients).items()}

    def load(self, tensors: Mapping[str, NDArray[np.float32]], where: str) -> None:
        """Overwrites every parameter.

        Raises:
            BadInputError: a tensor is missing, or its shape or dtype differs. Nothing is
                overwritten then.
        """
        for name, shape in self._shapes.items():
            check_tensor(tensors, name, shape, np.dtype(np.float32), where)
        for name, value in self.named().items():
            np.copyto(value, tensors[name])


def check_tensor(
    tensors: Mapping[str, NDArray[np.float32]],
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    where: str,
) -> None:
    """Checks that ``tensors[name]`` is there and is what the adapter needs.

    Raises:
        BadInputError: it is not.
    """
    if name not in tensors:
        raise BadInputError(f"{where}: tensor {name!r} is missing; is it of another adapter?")
    found = tensors[name]
    if found.shape != shape or found.dtype != dtype:
        raise BadInputError(
            f"{where}: {name!r} is {found.dtype} {found.shape}, this adapter needs {dtype} {shape}"
        )
    if not np.isfinite(found).all():
        raise BadInputError(f"{where}: {name!r} holds values that are not finite")
