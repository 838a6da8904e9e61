"""Losses, gradients and outputs of a batch, worked on in groups of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_runtime.side_gradients.network import is_by_hand

from .attention_context import AttentionContext
from .batch import NOT_COUNTED, Batch, PackedBatch
from .by_hand import GradientsByHand
from .candidate_loss import candidate_loss
from .language import token_losses, total_loss
from .pointer import Copies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig
    from edge_runtime.language_head.frozen_head import FrozenHead

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
        self._by_hand: GradientsByHand | None = None

    @property
    def packs(self) -> bool:
        """Gradients are computed of packed batches: padded ones have to be packed first."""
        return is_by_hand(self._config) and not self._config.pair

    def gradients(
        self, batch: Batch | PackedBatch, flat: NDArray[np.float32], sample: StepSample | None
    ) -> float:
        """Computes the summed loss; ``flat``, all parameters' gradients, becomes its gradient."""
        by_hand = self._checked(batch)
        is_written = by_hand is not None and by_hand.writes_all and batch.size > 0
        if not is_written:
            flat.fill(0)
        return self._sum(batch, sample, by_hand, adds=not is_written)

    def add_gradients(self, batch: Batch | PackedBatch, sample: StepSample | None = None) -> float:
        """Computes the summed loss; its gradient is added to the parameters'.

        With ``sample``, of the batch's candidates and these tokens.
        """
        return self._sum(batch, sample, self._checked(batch), adds=True)

    def _checked(self, batch: Batch | PackedBatch) -> GradientsByHand | None:
        """Checks the batch; what computes its gradients by hand, if that is to be done.

        By hand, the attention weights of all blocks are kept. Those of long samples would be
        larger than the hidden states, and autograd's attention keeps none.
        """
        self._check(batch)
        config = self._config
        longest = int(batch.lengths.max(initial=0))
        is_long = longest * config.num_heads > config.hidden_size and config.kind == "attention"
        if is_long or not is_by_hand(config):
            return None
        if self._by_hand is None:
            self._by_hand = GradientsByHand(self._adapter)
        return self._by_hand

    def _sum(
        self,
        batch: Batch | PackedBatch,
        sample: StepSample | None,
        by_hand: GradientsByHand | None,
        adds: bool,
    ) -> float:
        spans = _spans(batch, self._config)
        total = 0.0
        for span in spans:
            group = batch if len(spans) == 1 else batch.rows(span)
            if by_hand is None:
                total += self._by_autograd(group, sample)
            else:
                total += self._loss_by_hand(by_hand, group, sample, adds)
            adds = True
        return total

    def _loss_by_hand(
        self,
        by_hand: GradientsByHand,
        group: Batch | PackedBatch,
        sample: StepSample | None,
        adds: bool,
    ) -> float:
        packed = group.packed() if isinstance(group, Batch) else group
        if self._config.generative and self._config.reads_each_token_alone:
            packed = packed.counted_only()
            if not packed.size:
                return 0.0

        def head_loss(state_Nw: Tensor) -> Tensor:
            return self._head_loss(group, packed, sample, state_Nw)

        return by_hand.loss(packed, head_loss, adds=adds)

    def _by_autograd(self, group: Batch | PackedBatch, sample: StepSample | None) -> float:
        loss = self._loss(group if isinstance(group, Batch) else group.padded(), sample)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _head_loss(
        self,
        batch: Batch | PackedBatch,
        packed: PackedBatch,
        sample: StepSample | None,
        state_Nw: Tensor,
    ) -> Tensor:
        """Summed loss as it follows from the last side state, (N, w)."""
        if self._head is not None:
            counted, targets = _counted(packed, self._head)
            last = torch.from_numpy(packed.states[-1].astype(np.float32, copy=False))[counted]
            features = self._adapter.features(last, state_Nw[counted])
            return self._language_loss(packed, features, last, targets, sample)
        padded = batch if isinstance(batch, Batch) else batch.padded()
        hidden, mask, starts, _ = _inputs(padded)
        state = AttentionContext.of(mask, state_Nw.dtype).pad(state_Nw)
        return self._pooled_loss(
            self._adapter.pooled_outputs(hidden, mask, starts, state), batch.targets
        )

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
            return self._language_loss(batch, features, last, targets, sample, copies)
        hidden, mask, starts, encoder = _inputs(batch)
        state = self._adapter.side_state(hidden, mask, encoder)
        return self._pooled_loss(
            self._adapter.pooled_outputs(hidden, mask, starts, state), batch.targets
        )

    def _language_loss(
        self,
        batch: Batch | PackedBatch,
        features: Tensor,
        last: Tensor,
        targets: Tensor,
        sample: StepSample | None,
        copies: Copies | None = None,
    ) -> Tensor:
        assert self._head is not None
        if sample is not None and batch.candidates is not None:
            lines = batch.candidates
            return candidate_loss(features, last, targets, lines, sample, self._head, copies)
        return total_loss(features, targets, self._head, copies)

    def _pooled_loss(self, outputs: Tensor, of_samples: NDArray[Any]) -> Tensor:
        config, targets = self._config, torch.from_numpy(of_samples)
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
        targets = _known(targets[counted], head)
        hidden, mask, _, encoder = _inputs(batch)
        features, added = self._adapter.language(hidden, mask, counted, encoder)
        last = hidden[-1].flatten(0, 1)[counted]
        return features, targets, counted, last, _copies(added, batch, counted, head)

    def _check(self, batch: Batch | PackedBatch) -> None:
        config = self._config
        own = len(config.layers) - config.encoder_layers
        hidden = batch.hidden if isinstance(batch, Batch) else batch.states
        _check_shape("hidden", hidden, (own, config.hidden_size))
        if config.encoder_layers:
            if isinstance(batch, PackedBatch) or batch.encoder_hidden is None:
                raise ValueError("an encoder-decoder's batch needs encoder_hidden")
            expected = (config.encoder_layers, config.hidden_size)
            _check_shape("encoder_hidden", batch.encoder_hidden, expected)
        if config.copies and batch.tokens is None:
            raise ValueError("an adapter that copies tokens needs the batch's")
        if (batch.targets.ndim == 2) != config.generative:
            raise ValueError(f"targets of shape {batch.targets.shape} are not of {config.task}")


def _groups(batch: Batch, config: AdapterConfig) -> Iterator[Batch]:
    """The samples of ``batch``, in order, in groups of about ``CHUNK_VALUES``."""
    spans = _spans(batch, config)
    yield from [batch] if len(spans) == 1 else map(batch.rows, spans)


def _spans(batch: Batch | PackedBatch, config: AdapterConfig) -> list[slice]:
    values = 0
    for layers, tokens, channels in _sizes(batch):
        values += layers * tokens * (channels + tokens * config.score_heads)
    size = max(1, CHUNK_VALUES // max(1, values))
    return [slice(first, first + size) for first in range(0, batch.size, size)]


def _sizes(batch: Batch | PackedBatch) -> Iterator[tuple[int, int, int]]:
    """Layers, padded tokens of a sample and channels of each stack."""
    if isinstance(batch, PackedBatch):
        yield len(batch.states), int(batch.lengths.max(initial=0)), batch.states.shape[2]
        return
    for hidden in (batch.hidden, batch.encoder_hidden):
        if hidden is not None:
            yield len(hidden), *hidden.shape[2:]


def _counted(batch: PackedBatch, head: FrozenHead) -> tuple[Tensor, Tensor]:
    """Places of the counted tokens among all, and their targets."""
    tokens = batch.targets[np.arange(batch.targets.shape[1]) < batch.lengths[:, None]]
    counted = np.flatnonzero(tokens != NOT_COUNTED)
    return torch.from_numpy(counted), _known(torch.from_numpy(tokens[counted]), head)


def _known(targets: Tensor, head: FrozenHead) -> Tensor:
    if len(targets) and not (targets.min() >= 0 and targets.max() < head.vocabulary):
        raise IndexError(f"a target is not below {head.vocabulary}")
    return targets


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


def _check_shape(name: str, hidden: NDArray[Any], expected: tuple[int, int]) -> None:
    found = (hidden.shape[0], hidden.shape[-1])
    if found != expected:
        raise ValueError(f"{name} has (L, d) = {found}, the adapter {expected}")
