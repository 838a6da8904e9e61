"""Losses, gradients and outputs of a batch, worked on in groups of samples."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_runtime.side_gradients.network import is_by_hand

from .attention_context import PackedStates
from .batch import Batch, PackedBatch, channels
from .by_hand import GradientsByHand
from .candidate_loss import candidate_loss
from .language import token_losses, total_loss
from .layer_reads import normalize
from .pointer import Copies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig
    from edge_runtime.language_head.frozen_head import FrozenHead

    from .batch import Kept
    from .candidate_loss import StepSample
    from .module import ParallelAdapter

CHUNK_VALUES = 1 << 22
"""Values of hidden states, and of attention weights, that are worked on at a time."""

LANGUAGE_OUTPUTS = 3
"""Of a language model's sample: summed loss, counted tokens, correctly predicted ones."""


class Model:
    """An adapter, and the frozen head of a language model.

    A batch is worked on in groups of samples whose intermediate values fit in a cache or
    at least in little memory; groups depend on the batch's shape alone. Padded batches are
    packed first.
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

    def gradients(
        self, batch: Batch | PackedBatch, flat: NDArray[np.float32], sample: StepSample | None
    ) -> float:
        """Computes the summed loss; ``flat``, all parameters' gradients, becomes its gradient."""
        packed = self._checked(batch)
        by_hand = self._by_hand_for(packed)
        is_written = by_hand is not None and by_hand.writes_all and packed.size > 0
        if not is_written:
            flat.fill(0)
        return self._sum(packed, sample, by_hand, adds=not is_written)

    def add_gradients(self, batch: Batch | PackedBatch, sample: StepSample | None = None) -> float:
        """Computes the summed loss; its gradient is added to the parameters'.

        With ``sample``, of the batch's candidates and these tokens.
        """
        packed = self._checked(batch)
        return self._sum(packed, sample, self._by_hand_for(packed), adds=True)

    def _by_hand_for(self, batch: PackedBatch) -> GradientsByHand | None:
        """What computes a batch's gradients by hand, if that is to be done.

        By hand, the attention weights of all blocks are kept. Those of long samples would be
        larger than the hidden states, and autograd's attention keeps none.
        """
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
        batch: PackedBatch,
        sample: StepSample | None,
        by_hand: GradientsByHand | None,
        adds: bool,
    ) -> float:
        total = 0.0
        for group in _groups(batch, self._config):
            read = _Group(group, self._adapter, self._head)
            if read.rows is not None and not len(read.rows):
                continue
            if by_hand is None:
                loss = self._loss(read, read.side_state(), sample)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            else:
                head_loss = functools.partial(self._loss, read, sample=sample)
                total += by_hand.loss(group, read.rows, head_loss, adds=adds)
            adds = True
        return total

    def _loss(self, group: _Group, state: Tensor, sample: StepSample | None) -> Tensor:
        """Summed loss as it follows from the last side state."""
        batch, head = group.batch, self._head
        if head is None:
            return self._pooled_loss(group.pooled_outputs(state), batch.targets)
        features, last, copies = group.features(state)
        targets, lines = group.targets, batch.candidates
        if sample is None or lines is None:
            return total_loss(features, targets, head, copies)
        return candidate_loss(features, last, targets, lines, sample, head, copies)

    def _pooled_loss(self, outputs: Tensor, of_samples: NDArray[Any]) -> Tensor:
        config, targets = self._config, torch.from_numpy(of_samples)
        if config.task == "regression":
            return functional.mse_loss(outputs[:, 0], targets, reduction="sum")
        if not (targets.min() >= 0 and targets.max() < config.num_outputs):
            raise IndexError(f"a target is not below {config.num_outputs}")
        return functional.cross_entropy(outputs, targets, reduction="sum")

    @torch.inference_mode()
    def outputs(self, batch: Batch | PackedBatch) -> NDArray[Any]:
        """(B, C); see :meth:`.trainer.Trainer.outputs`."""
        packed = self._checked(batch)
        width = self._config.num_outputs if self._head is None else LANGUAGE_OUTPUTS
        dtype = np.float64 if self._config.task == "regression" else np.float32
        result = np.zeros((packed.size, width), dtype)
        first = 0
        for group in _groups(packed, self._config):
            found = self._outputs(_Group(group, self._adapter, self._head))
            result[first : first + group.size] = found.numpy()
            first += group.size
        return result

    def _outputs(self, group: _Group) -> Tensor:
        if self._head is None:
            return self._adapter.in_units(group.pooled_outputs(group.side_state()))
        features, _, copies = group.features(group.side_state())
        loss, correct = token_losses(features, group.targets, self._head, copies=copies)
        values = torch.stack((loss, torch.ones_like(loss), correct.float()), 1)
        size = group.batch.size
        return torch.zeros(size, LANGUAGE_OUTPUTS).index_add_(0, group.samples, values)

    def _checked(self, batch: Batch | PackedBatch) -> PackedBatch:
        """The batch without padding, if it fits the adapter."""
        packed = batch.packed() if isinstance(batch, Batch) else batch
        config = self._config
        own = len(config.layers) - config.encoder_layers
        _check_shape("hidden", packed.states, (own, config.hidden_size))
        if config.encoder_layers:
            if packed.encoder_states is None:
                raise ValueError("an encoder-decoder's batch needs encoder_hidden")
            expected = (config.encoder_layers, config.hidden_size)
            _check_shape("encoder_hidden", packed.encoder_states, expected)
        if config.copies and packed.tokens is None:
            raise ValueError("an adapter that copies tokens needs the batch's")
        if (packed.targets.ndim == 2) != config.generative:
            raise ValueError(f"targets of shape {packed.targets.shape} are not of {config.task}")
        return packed


class _Group:
    """Samples that are worked on at once, as tensors.

    Attributes:
        batch: the samples.
        counted: of a language model, which of the N tokens have a target, (M,).
        rows: the same, where side states of no other tokens are needed; else None.
    """

    def __init__(
        self, batch: PackedBatch, adapter: ParallelAdapter, head: FrozenHead | None
    ) -> None:
        self.batch, self._adapter, self._head = batch, adapter, head
        self.counted = np.empty(0, np.int64) if head is None else batch.counted
        alone = head is not None and adapter.config.reads_each_token_alone
        self.rows = self.counted if alone else None
        self._states = _states(batch.states, batch.lengths)

    def side_state(self) -> Tensor:
        """The last side state: of all tokens, or of ``rows``."""
        batch, encoder = self.batch, None
        if batch.encoder_states is not None and batch.encoder_lengths is not None:
            encoder = _states(batch.encoder_states, batch.encoder_lengths)
        rows = None if self.rows is None else torch.from_numpy(self.rows)
        return self._adapter.side_state(self._states, encoder, rows)

    def pooled_outputs(self, state: Tensor) -> Tensor:
        """Outputs of samples, from the last side state."""
        starts = torch.from_numpy(self.batch.second_starts)
        return self._adapter.pooled_outputs(self._states, starts, state)

    def features(self, state: Tensor) -> tuple[Tensor, Tensor, Copies | None]:
        """Of the counted tokens: features, the backbone's last states, and what is copied."""
        counted = torch.from_numpy(self.counted)
        normed = normalize(state if self.rows is not None else state.index_select(0, counted))
        last = self._states.decoded(-1, normed.dtype, counted)
        features = self._adapter.features(last, normed)
        if not self._adapter.config.copies:
            return features, last, None
        context = self._context()[self.samples]
        return features, last, Copies(self._adapter.pointer(self._states, normed, counted), context)

    @property
    def targets(self) -> Tensor:
        """Those of the counted tokens."""
        targets = self.batch.targets
        found = targets[np.arange(targets.shape[1]) < self.batch.lengths[:, None]][self.counted]
        return torch.from_numpy(self._known("target", found))

    @property
    def samples(self) -> Tensor:
        """Which sample each counted token is of."""
        ends = np.cumsum(self.batch.lengths)
        return torch.from_numpy(np.searchsorted(ends, self.counted, side="right"))

    def _context(self) -> Tensor:
        """The samples' tokens, (B, T), with -1 as padding."""
        batch = self.batch
        assert batch.tokens is not None  # see Model._checked
        is_here = np.arange(batch.targets.shape[1]) < batch.lengths[:, None]
        tokens = np.full(is_here.shape, -1, np.int64)
        tokens[is_here] = self._known("token", batch.tokens)
        return torch.from_numpy(tokens)

    def _known(self, what: str, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        assert self._head is not None
        vocabulary = self._head.vocabulary
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < vocabulary):
            raise IndexError(f"a {what} is not below {vocabulary}")
        return tokens


def _groups(batch: PackedBatch, config: AdapterConfig) -> Iterator[PackedBatch]:
    """The samples of ``batch``, in order, in groups of about ``CHUNK_VALUES``."""
    values = 0
    for states, lengths in (
        (batch.states, batch.lengths),
        (batch.encoder_states, batch.encoder_lengths),
    ):
        if states is not None and lengths is not None:
            tokens = int(lengths.max(initial=0))
            values += len(states) * tokens * (channels(states) + tokens * config.score_heads)
    size = max(1, CHUNK_VALUES // max(1, values))
    for first in range(0, batch.size, size):
        yield batch if size >= batch.size else batch.rows(slice(first, first + size))


def _states(states: NDArray[Any], lengths: NDArray[np.int64]) -> PackedStates:
    return PackedStates(torch.from_numpy(states), torch.from_numpy(lengths))


def _check_shape(name: str, states: Kept, expected: tuple[int, int]) -> None:
    found = (len(states), channels(states))
    if found != expected:
        raise ValueError(f"{name} has (L, d) = {found}, the adapter {expected}")
