"""Side network and head as one function of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from .batch import NOT_COUNTED
from .head import PooledHead
from .language import Features, token_losses
from .loss import cross_entropy, squared_error
from .network import SideNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig

    from .batch import Batch
    from .flat import FlatParameters
    from .frozen_head import FrozenHead

CHUNK_VALUES = 1 << 22
"""Values of hidden states, and of attention weights, that are worked on at a time."""


class Output(Protocol):
    """What makes outputs and losses of side states."""

    width: int

    def outputs(self, batch: Batch, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor) -> Tensor:
        """(B, ``width``) outputs."""

    def loss(
        self, batch: Batch, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor
    ) -> tuple[float, Tensor]:
        """Summed loss, and its gradient with respect to ``state``; fills the weights'."""


class Model:
    """Side network and head over one set of parameters.

    A batch is worked on in groups of samples whose intermediate values fit in a cache or
    at least in little memory; groups depend on the batch's shape alone.
    """

    def __init__(
        self, config: AdapterConfig, parameters: FlatParameters, head: FrozenHead | None = None
    ) -> None:
        self._config = config
        self._parameters = parameters
        self._network = SideNetwork(config, parameters)
        self._output: Output
        if config.generative:
            self._output = LanguageOutput(config, parameters, head)
        else:
            self._output = PooledOutput(config, parameters)

    def loss_and_gradients(self, batch: Batch) -> float:
        """Summed loss; its gradient replaces that in ``parameters``."""
        self._check(batch)
        gradients = self._parameters.gradients
        groups = list(_groups(batch, self._config))
        total, loss = torch.zeros_like(gradients) if len(groups) > 1 else None, 0.0
        for group in groups:
            hidden, mask, state = self._forward(group)
            summed, gradient = self._output.loss(group, hidden, state, mask)
            self._network.backward(gradient)
            loss += summed
            if total is not None:
                total += gradients
        if total is not None:
            gradients.copy_(total)
        return loss

    def outputs(self, batch: Batch) -> NDArray[np.float32]:
        """(B, C) float32; see :meth:`edge_runtime.parallel_adapters.trainer.Trainer.outputs`."""
        self._check(batch)
        result = np.zeros((batch.size, self._output.width), np.float32)
        first = 0
        with torch.inference_mode():
            for group in _groups(batch, self._config) if batch.size else ():
                hidden, mask, state = self._forward(group)
                outputs = self._output.outputs(group, hidden, state, mask)
                result[first : first + group.size] = outputs.numpy()
                first += group.size
        return result

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        hidden, mask = _states(batch.hidden, batch.lengths)
        encoder = None
        if batch.encoder_hidden is not None and batch.encoder_lengths is not None:
            encoder = _states(batch.encoder_hidden, batch.encoder_lengths)
        return hidden, mask, self._network.forward(hidden, mask, encoder)

    def _check(self, batch: Batch) -> None:
        config = self._config
        own = len(config.layers) - config.encoder_layers
        _check_shape("hidden", batch.hidden, (own, config.hidden_size))
        if config.encoder_layers:
            if batch.encoder_hidden is None:
                raise ValueError("an encoder-decoder's batch needs encoder_hidden")
            expected = (config.encoder_layers, config.hidden_size)
            _check_shape("encoder_hidden", batch.encoder_hidden, expected)
        if (batch.targets.ndim == 2) != config.generative:
            raise ValueError(f"targets of shape {batch.targets.shape} are not of {config.task}")


class PooledOutput:
    """Classification and regression."""

    def __init__(self, config: AdapterConfig, parameters: FlatParameters) -> None:
        self._config = config
        self._head = PooledHead(config, parameters)
        self.width = config.num_outputs

    def outputs(self, batch: Batch, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits, or values in the targets' units."""
        outputs = self._forward(batch, hidden_LBTd, state, mask_BT)
        if self._config.task == "regression":
            outputs = outputs * self._config.target_scale + self._config.target_mean
        return outputs

    def loss(
        self, batch: Batch, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor
    ) -> tuple[float, Tensor]:
        """See :class:`Output`."""
        targets = batch.targets
        classes = self._config.num_outputs
        if self._config.task == "classification" and not (
            targets.min() >= 0 and targets.max() < classes
        ):
            raise IndexError(f"a target is not below {classes}")
        outputs = self._forward(batch, hidden_LBTd, state, mask_BT)
        if self._config.task == "regression":
            mean, scale = self._config.target_mean, self._config.target_scale
            loss, gradient = squared_error(outputs, (torch.from_numpy(targets) - mean) / scale)
        else:
            loss, gradient = cross_entropy(outputs, torch.from_numpy(targets))
        return loss, self._head.backward(gradient)

    def _forward(self, batch: Batch, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor) -> Tensor:
        return self._head.forward(
            hidden_LBTd, state, mask_BT, torch.from_numpy(batch.second_starts)
        )


class LanguageOutput:
    """Language models: the frozen head reads the features of every counted token."""

    width = 3

    def __init__(
        self, config: AdapterConfig, parameters: FlatParameters, head: FrozenHead | None
    ) -> None:
        expected = (config.num_outputs, config.hidden_size)
        if head is None:
            raise ValueError(f"an adapter for {config.task} needs the frozen head")
        if (head.vocabulary, head.hidden_size) != expected:
            raise ValueError(f"the head is not of (V, d) = {expected}")
        self._features = Features(config, parameters)
        self._frozen = head

    def outputs(self, batch: Batch, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor) -> Tensor:
        """Summed loss, counted tokens and correctly predicted ones of each sample."""
        features, targets, counted = self._forward(batch, hidden_LBTd, state)
        loss, correct = token_losses(features, targets, self._frozen)
        values = torch.stack((loss, torch.ones_like(loss), correct.float()), 1)
        sample = counted // mask_BT.shape[1]
        return torch.zeros(batch.size, self.width).index_add_(0, sample, values)

    def loss(
        self, batch: Batch, hidden_LBTd: Tensor, state: Tensor, mask_BT: Tensor
    ) -> tuple[float, Tensor]:
        """See :class:`Output`."""
        del mask_BT
        features, targets, _ = self._forward(batch, hidden_LBTd, state)
        gradient = torch.empty_like(features)
        loss, _ = token_losses(features, targets, self._frozen, gradient)
        return float(loss.sum()), self._features.backward(gradient)

    def _forward(
        self, batch: Batch, hidden_LBTd: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features and targets of the counted tokens, and their places in (B*T,)."""
        targets = torch.from_numpy(np.ascontiguousarray(batch.targets)).view(-1)
        counted = (targets != NOT_COUNTED).nonzero()[:, 0]
        targets = targets[counted]
        if len(targets) and not (targets.min() >= 0 and targets.max() < self._frozen.vocabulary):
            raise IndexError(f"a target is not below {self._frozen.vocabulary}")
        features = self._features.forward(hidden_LBTd[-1].flatten(0, 1), state, counted)
        return features, targets, counted


def _groups(batch: Batch, config: AdapterConfig) -> Iterator[Batch]:
    """The samples of ``batch``, in order, in groups of about ``CHUNK_VALUES``."""
    values = 0
    for hidden in (batch.hidden, batch.encoder_hidden):
        if hidden is not None:
            layers, _, tokens, channels = hidden.shape
            values += layers * tokens * (channels + tokens * config.num_heads)
    size = max(1, CHUNK_VALUES // max(1, values))
    if size >= batch.size:
        yield batch
        return
    for first in range(0, batch.size, size):
        yield batch.rows(slice(first, first + size))


def _states(hidden: NDArray[np.float32], lengths: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    mask = np.arange(hidden.shape[2]) < lengths[:, None]
    return torch.from_numpy(np.ascontiguousarray(hidden)), torch.from_numpy(mask)


def _check_shape(name: str, hidden: NDArray[np.float32], expected: tuple[int, int]) -> None:
    found = (hidden.shape[0], hidden.shape[3])
    if found != expected:
        raise ValueError(f"{name} has (L, d) = {found}, the adapter {expected}")
