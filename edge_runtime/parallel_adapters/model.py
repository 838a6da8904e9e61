"""Losses, gradients and outputs of a batch, worked on in groups of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .batch import NOT_COUNTED
from .candidate_loss import candidate_loss
from .language import token_losses, total_loss
from .pointer import Copies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig
    from edge_runtime.language_head.frozen_head import FrozenHead

    from .batch import Batch
    from .candidate_loss import StepSample
    from .module import ParallelAdapter

CHUNK_VALUES = 1 << 22
"""Values of hidden states, and of attention weights, that are worked on at a time."""

LANGUAGE_OUTPUTS = 3
"""Of a language model's sample: summed loss, counted tokens, correctly predicted ones."""


class Model:
    """An adapter, and the frozen head of a language model.

    A batch is worked on in groups of samples whose intermediate values fit in a cache or
    at least in little memory; groups depend on the batch's shape alone.
    """

    def __init__(self, adapter: ParallelAdapter, head: FrozenHead | None = None) -> None:
        """Checks that the head fits.

        Raises:
            ValueError: a language model without the head that fits it.
        """
        config = adapter.config
        expected = (config.num_outputs, config.hidden_size)
        if config.generative and head is None:
            raise ValueError(f"an adapter for {config.task} needs the frozen head")
        if config.generative and head and (head.vocabulary, head.hidden_size) != expected:
            raise ValueError(f"the head is not of (V, d) = {expected}")
        self._adapter = adapter
        self._config = config
        self._head = head if config.generative else None

    def add_gradients(self, batch: Batch, sample: StepSample | None = None) -> float:
        """Computes the summed loss; its gradient is added to the parameters'.

        With ``sample``, of the batch's candidates and these tokens.
        """
        self._check(batch)
        total = 0.0
        for group in _groups(batch, self._config):
            loss = self._loss(group, sample)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    @torch.inference_mode()
    def outputs(self, batch: Batch) -> NDArray[Any]:
        """(B, C); see :meth:`.trainer.Trainer.outputs`."""
        self._check(batch)
        width = self._config.num_outputs if self._head is None else LANGUAGE_OUTPUTS
        dtype = np.float64 if self._config.task == "regression" else np.float32
        result = np.zeros((batch.size, width), dtype)
        first = 0
        for group in _groups(batch, self._config) if batch.size else ():
            result[first : first + group.size] = self._outputs(group).numpy()
            first += group.size
        return result

    def _outputs(self, batch: Batch) -> Tensor:
        if self._head is None:
            outputs: Tensor = self._adapter(*_inputs(batch))
            return outputs
        features, targets, counted, _, copies = self._features(batch, self._head)
        loss, correct = token_losses(features, targets, self._head, copies=copies)
        values = torch.stack((loss, torch.ones_like(loss), correct.float()), 1)
        sample = counted // batch.hidden.shape[2]
        return torch.zeros(batch.size, LANGUAGE_OUTPUTS).index_add_(0, sample, values)

    def _loss(self, batch: Batch, sample: StepSample | None) -> Tensor:
        """Summed loss, with gradients to come."""
        if self._head is not None:
            features, targets, _, last, copies = self._features(batch, self._head)
            if sample is not None and batch.candidates is not None:
                lines = batch.candidates
                return candidate_loss(features, last, targets, lines, sample, self._head, copies)
            return total_loss(features, targets, self._head, copies)
        config, targets = self._config, torch.from_numpy(batch.targets)
        outputs = self._adapter.pooled_outputs(*_inputs(batch))
        if config.task == "regression":
            return functional.mse_loss(outputs[:, 0], targets, reduction="sum")
        if not (targets.min() >= 0 and targets.max() < config.num_outputs):
            raise IndexError(f"a target is not below {config.num_outputs}")
        return functional.cross_entropy(outputs, targets, reduction="sum")

    def _features(
        self, batch: Batch, head: FrozenHead
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Copies | None]:
        """Features and targets of the counted tokens, places in (B*T,), last states, copies."""
        targets = torch.from_numpy(np.ascontiguousarray(batch.targets)).view(-1)
        counted = (targets != NOT_COUNTED).nonzero()[:, 0]
        targets = targets[counted]
        if len(targets) and not (targets.min() >= 0 and targets.max() < head.vocabulary):
            raise IndexError(f"a target is not below {head.vocabulary}")
        hidden, mask, _, encoder = _inputs(batch)
        features, added = self._adapter.language(hidden, mask, counted, encoder)
        last = hidden[-1].flatten(0, 1)[counted]
        return features, targets, counted, last, _copies(added, batch, counted, head)

    def _check(self, batch: Batch) -> None:
        config = self._config
        own = len(config.layers) - config.encoder_layers
        _check_shape("hidden", batch.hidden, (own, config.hidden_size))
        if config.encoder_layers:
            if batch.encoder_hidden is None:
                raise ValueError("an encoder-decoder's batch needs encoder_hidden")
            expected = (config.encoder_layers, config.hidden_size)
            _check_shape("encoder_hidden", batch.encoder_hidden, expected)
        if config.copies and batch.tokens is None:
            raise ValueError("an adapter that copies tokens needs the batch's")
        if (batch.targets.ndim == 2) != config.generative:
            raise ValueError(f"targets of shape {batch.targets.shape} are not of {config.task}")


def _groups(batch: Batch, config: AdapterConfig) -> Iterator[Batch]:
    """The samples of ``batch``, in order, in groups of about ``CHUNK_VALUES``."""
    values = 0
    for hidden in (batch.hidden, batch.encoder_hidden):
        if hidden is not None:
            layers, _, tokens, channels = hidden.shape
            values += layers * tokens * (channels + tokens * config.score_heads)
    size = max(1, CHUNK_VALUES // max(1, values))
    if size >= batch.size:
        yield batch
        return
    for first in range(0, batch.size, size):
        yield batch.rows(slice(first, first + size))


def _states(hidden: NDArray[np.float32], lengths: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    mask = np.arange(hidden.shape[2]) < lengths[:, None]
    return torch.from_numpy(np.ascontiguousarray(hidden)), torch.from_numpy(mask)


def _inputs(batch: Batch) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Arguments of :class:`.module.ParallelAdapter`."""
    encoder = None
    if batch.encoder_hidden is not None and batch.encoder_lengths is not None:
        encoder = _states(batch.encoder_hidden, batch.encoder_lengths)
    hidden, mask = _states(batch.hidden, batch.lengths)
    return hidden, mask, torch.from_numpy(batch.second_starts), encoder


def _copies(added: Tensor | None, batch: Batch, counted: Tensor, head: FrozenHead) -> Copies | None:
    """What is added to logits of the context's tokens."""
    if added is None:
        return None
    assert batch.tokens is not None  # see Model._check
    if not 0 <= batch.tokens.min(initial=0) <= batch.tokens.max(initial=0) < head.vocabulary:
        raise IndexError(f"a token is not below {head.vocabulary}")
    padding = np.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]
    tokens = torch.from_numpy(np.where(padding, -1, batch.tokens))
    return Copies(added, tokens[counted // tokens.shape[1]])


def _check_shape(name: str, hidden: NDArray[np.float32], expected: tuple[int, int]) -> None:
    found = (hidden.shape[0], hidden.shape[3])
    if found != expected:
        raise ValueError(f"{name} has (L, d) = {found}, the adapter {expected}")
