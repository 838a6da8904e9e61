"""Parameters and gradients as named views into one flat buffer each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from edge_runtime.contract.errors import BadInputError

from .parameters import decayed_specs, initial_values, undecayed_specs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig


class Weight(NamedTuple):
    """A parameter and where its gradient goes."""

    value: torch.Tensor
    gradient: torch.Tensor


class FlatParameters:
    """All parameters of an adapter.

    Attributes:
        values: (P,) float32.
        gradients: (P,) float32.
        decayed: number of leading values that weight decay applies to.
    """

    def __init__(
        self,
        config: AdapterConfig,
        seed: int,
        initial: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """Makes the parameters and gives them their initial values.

        Args:
            config: shape of the adapter.
            seed: of the generated values.
            initial: values to start from in place of generated ones, for some or all of
                the tensors.

        Raises:
            BadInputError: ``initial`` has a tensor that this adapter has not, or one of
                another shape or dtype.
        """
        decayed, undecayed = decayed_specs(config), undecayed_specs(config)
        self._specs = decayed + undecayed
        self.decayed = sum(spec.size for spec in decayed)
        total = sum(spec.size for spec in self._specs)
        self.values = torch.zeros(total)
        self.gradients = torch.zeros(total)
        self._weights: dict[str, Weight] = {}
        offset = 0
        for spec, generated in initial_values(self._specs, seed):
            span = slice(offset, offset + spec.size)
            offset += spec.size
            self._weights[spec.name] = Weight(
                self.values[span].view(spec.shape), self.gradients[span].view(spec.shape)
            )
            self._weights[spec.name].value.copy_(torch.from_numpy(generated))
        self._start_from(initial or {})

    def __getitem__(self, name: str) -> Weight:
        return self._weights[name]

    def _start_from(self, initial: Mapping[str, NDArray[np.float32]]) -> None:
        where = "initial adapter weights"
        for name in initial:
            if name not in self._weights:
                raise BadInputError(f"{where}: this adapter has no tensor {name[:80]!r}")
            value = self._weights[name].value.numpy()
            check_tensor(initial, name, value.shape, value.dtype, where)
            np.copyto(value, initial[name])

    def named(self) -> dict[str, NDArray[np.float32]]:
        """Every parameter by name, as views."""
        return {name: weight.value.numpy() for name, weight in self._weights.items()}

    def named_gradients(self) -> dict[str, NDArray[np.float32]]:
        """Every gradient by its parameter's name, as views."""
        return {name: weight.gradient.numpy() for name, weight in self._weights.items()}

    def load(self, tensors: dict[str, NDArray[np.float32]], where: str) -> None:
        """Overwrites every parameter.

        Raises:
            BadInputError: a tensor is missing, or its shape or dtype differs. Nothing is
                overwritten then.
        """
        for spec in self._specs:
            check_tensor(tensors, spec.name, spec.shape, np.dtype(np.float32), where)
        for spec in self._specs:
            np.copyto(self._weights[spec.name].value.numpy(), tensors[spec.name])


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
