"""The training engine that a device drives: gradients, updates, outputs, state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import read_tensors, write_tensors

from .averaging import update_average
from .flat import FlatParameters, check_tensor
from .head import PooledHead
from .loss import cross_entropy, squared_error
from .network import SideNetwork
from .optimizer import AdamW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions

from .batch import Batch

# The weights that training goes on from; in the state only.
_CURRENT = "optimizer.current_weights"


class _Model:
    """Side network and head as one function of a batch."""

    def __init__(self, config: AdapterConfig, parameters: FlatParameters) -> None:
        if config.task not in ("classification", "regression"):
            raise BadInputError(f"adapters for task {config.task!r} cannot be trained yet")
        self.config = config
        self._network = SideNetwork(config, parameters)
        self._head = PooledHead(config, parameters)

    def forward(self, batch: Batch) -> Tensor:
        self._check(batch)
        hidden = torch.from_numpy(np.ascontiguousarray(batch.hidden))
        lengths = torch.from_numpy(batch.lengths)
        mask = torch.arange(hidden.shape[2]) < lengths[:, None]
        state = self._network.forward(hidden, mask)
        return self._head.forward(hidden[-1], state, mask, torch.from_numpy(batch.second_starts))

    def loss_and_gradients(self, batch: Batch) -> float:
        outputs = self.forward(batch)
        targets = torch.from_numpy(batch.targets)
        if self.config.task == "regression":
            scaled = (targets - self.config.target_mean) / self.config.target_scale
            loss, gradient = squared_error(outputs, scaled)
        else:
            loss, gradient = cross_entropy(outputs, targets)
        self._network.backward(self._head.backward(gradient))
        return loss

    def outputs(self, batch: Batch) -> NDArray[np.float32]:
        config = self.config
        if not batch.size:
            return np.zeros((0, config.num_outputs), np.float32)
        with torch.inference_mode():
            outputs = self.forward(batch)
            if config.task == "regression":
                outputs = outputs * config.target_scale + config.target_mean
            result: NDArray[np.float32] = outputs.numpy()
            return result

    def _check(self, batch: Batch) -> None:
        layers, _, _, channels = batch.hidden.shape
        expected = (len(self.config.layers), self.config.hidden_size)
        if (layers, channels) != expected:
            raise ValueError(f"hidden has (L, d) = {(layers, channels)}, the adapter {expected}")


def _configure_torch(threads: int) -> None:
    torch.set_num_threads(threads)
    # Gradients of well-learnt samples are subnormal, which is up to 30 times slower.
    torch.set_flush_denormal(True)


class Trainer:
    """One replica of the adapter and its optimizer.

    Neither networking nor cache I/O: a device calls :meth:`gradients`, sums
    ``flat_gradient`` over all trainers, divides by the global count and calls
    :meth:`apply` with the same values everywhere. Initial weights are a function of
    ``options.seed`` alone. Outputs and saved weights are those of a running mean
    (``options.average_fraction``).

    Attributes:
        step: updates applied so far.
        flat_gradient: (P,) float32, written by :meth:`gradients`; may be modified.
        flat_parameters: (P,) float32, the current parameters in the same order, before
            averaging.
    """

    def __init__(
        self,
        config: AdapterConfig,
        options: TrainingOptions,
        total_steps: int,
        threads: int = 1,
        head: FrozenHead | None = None,
        initial: bytes | None = None,
    ) -> None:
        """Makes the adapter.

        Args:
            config: shape of the adapter.
            options: how to train it.
            total_steps: updates in all, which the schedule is made for.
            threads: of PyTorch.
            head: the frozen head, for language models.
            initial: safetensors with initial values of some or all of the adapter's tensors.
        """
        _configure_torch(threads)
        self._parameters = FlatParameters(config, options.seed)
        self._average = FlatParameters(config, options.seed)
        self._average_steps = options.average_fraction * total_steps
        self._model = _Model(config, self._parameters)
        self._average_model = _Model(config, self._average)
        self._optimizer = AdamW(self._parameters, options, total_steps)
        self.flat_gradient: NDArray[np.float32] = self._parameters.gradients.numpy()
        self.flat_parameters: NDArray[np.float32] = self._parameters.values.numpy()

    @property
    def parameters(self) -> int:
        """Number of trainable parameters P."""
        return self.flat_parameters.size

    @property
    def step(self) -> int:
        """Updates applied so far."""
        return self._optimizer.step

    def gradients(self, batch: Batch) -> float:
        """Summed loss; its gradient replaces ``flat_gradient``.

        The loss is in nats for classification, and in squared standardised units
        (``target_scale``) for regression. An empty batch has loss 0 and gradient 0.

        Raises:
            ValueError: the batch does not fit the adapter.
            IndexError: a target is no class.
        """
        if not batch.size:
            self.flat_gradient.fill(0)
            return 0.0
        if self._model.config.task == "classification" and not (
            batch.targets.min() >= 0 and batch.targets.max() < self._model.config.num_outputs
        ):
            raise IndexError(f"a target is not below {self._model.config.num_outputs}")
        with torch.inference_mode():
            return self._model.loss_and_gradients(batch)

    def named_gradients(self) -> dict[str, NDArray[np.float32]]:
        """``flat_gradient`` by parameter, as views."""
        return self._parameters.named_gradients()

    def apply(self, mean_gradient: NDArray[np.float32]) -> None:
        """Clips and applies the mean gradient over the global batch; ``step`` advances.

        Raises:
            ValueError: ``mean_gradient`` is not (P,) float32.
        """
        with torch.inference_mode():
            self._optimizer.apply(mean_gradient)
            update_average(
                self._average.values, self._parameters.values, self.step, self._average_steps
            )

    def outputs(self, batch: Batch) -> NDArray[np.float32]:
        """(B, C) logits, or (B, 1) values in the targets' units, by the averaged weights."""
        return self._average_model.outputs(batch)

    def state(self) -> bytes:
        """Averaged weights by name, and all that training needs to go on, as safetensors."""
        own = {_CURRENT: self.flat_parameters}
        return write_tensors({**self._average.named(), **self._optimizer.state(), **own})

    def load_state(self, data: bytes) -> None:
        """Takes over what :meth:`state` wrote; unchanged if it raises.

        Raises:
            BadInputError: damaged, or of an adapter of another shape.
        """
        where = "trainer state"
        tensors = read_tensors(data, where)
        self._optimizer.check(tensors, where)
        shape = self.flat_parameters.shape
        check_tensor(tensors, _CURRENT, shape, self.flat_parameters.dtype, where)
        self._average.load(tensors, where)
        np.copyto(self.flat_parameters, tensors[_CURRENT])
        self._optimizer.load(tensors)


class Predictor:
    """A trained adapter, for evaluation and use."""

    def __init__(
        self,
        config: AdapterConfig,
        weights: bytes,
        threads: int = 1,
        head: FrozenHead | None = None,
    ) -> None:
        """Loads ``adapter_model.safetensors``.

        Raises:
            BadInputError: damaged, or of an adapter of another shape.
        """
        _configure_torch(threads)
        parameters = FlatParameters(config, seed=0)
        where = "adapter_model.safetensors"
        parameters.load(read_tensors(weights, where), where)
        self._model = _Model(config, parameters)

    def outputs(self, batch: Batch) -> NDArray[np.float32]:
        """(B, C) logits, or (B, 1) values in the targets' units."""
        return self._model.outputs(batch)
