"""The training engine that a device drives: gradients, updates, outputs, state."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edge_runtime.contract.adapter import settled
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.language_head.tail_sample import draw_tail
from edge_runtime.language_head.token_counts import is_counts, tail_of

from .candidate_loss import StepSample
from .flat import FlatParameters, check_tensor
from .load import from_bytes
from .model import Model
from .module import ParallelAdapter
from .optimizer import AdamW, update_average

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
    from edge_runtime.language_head.frozen_head import FrozenHead
    from edge_runtime.language_head.token_counts import Counts

from .batch import Batch, PackedBatch

# The weights that training goes on from; in the state only.
_CURRENT = "optimizer.current_weights"
_COUNTS = "optimizer.tail_counts"
_SMALLEST_NORMAL = sys.float_info.min


@contextlib.contextmanager
def _flushing_subnormals() -> Iterator[None]:
    """Takes them for zero in this thread: with gradients of well-learnt samples, 30 times faster.

    The mode is the processor's: with it left on, what else the thread does, or a thread that it
    starts, would encode and decode halves below 2^-14 as zeros, so that a cache and what is learnt
    of it would depend on who filled it and who read it.
    """
    if _SMALLEST_NORMAL / 2 == 0.0:  # it is on already; PyTorch does not say
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Trainer:
    """One replica of the adapter and its optimizer.

    Neither networking nor cache I/O: a device calls :meth:`gradients`, sums
    ``flat_gradient`` over all trainers and calls :meth:`apply` with the same values and the
    global count everywhere. Initial weights are a function of
    ``options.initial_seed`` alone. Outputs and saved weights are those of a running mean
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
            initial: safetensors with values to start from in place of generated ones, for
                some or all of the adapter's tensors.

        Raises:
            BadInputError: ``initial`` is damaged or of an adapter of another shape.
            ValueError: a language model without the head that fits it.
        """
        torch.set_num_threads(threads)
        given = read_tensors(initial, "initial adapter weights") if initial else None
        adapter, averaged = ParallelAdapter(config), ParallelAdapter(config)
        self._parameters = FlatParameters(adapter)
        self._average = FlatParameters(averaged, trained=False)
        for parameters in (self._parameters, self._average):
            parameters.initialize(options.initial_seed, given or {})
        self._average_steps = options.average_fraction * total_steps
        self._model, self._average_model = Model(adapter, head), Model(averaged, head)
        self._head, self._seed = head, options.seed
        self._counts: Counts | None = None
        self._sample: tuple[int, StepSample] | None = None
        self._optimizer = AdamW(self._parameters, settled(options, config), total_steps)
        self.flat_gradient: NDArray[np.float32] = self._parameters.gradients.numpy()
        self.flat_parameters: NDArray[np.float32] = self._parameters.values.numpy()

    @property
    def parameters(self) -> int:
        """Number of trainable parameters P."""
        return self.flat_parameters.size

    @property
    def finite(self) -> bool:
        """No weight is infinite or not a number, averaged or not."""
        return all(
            bool(np.isfinite(each.values.numpy()).all())
            for each in (self._parameters, self._average)
        )

    @property
    def step(self) -> int:
        """Updates applied so far."""
        return self._optimizer.step

    @_flushing_subnormals()
    def gradients(self, batch: Batch | PackedBatch) -> float:
        """Summed loss; its gradient replaces ``flat_gradient``.

        The loss is in nats for classification, in nats summed over the counted tokens for
        language models, and in squared standardised units (``target_scale``) for
        regression. The mean is over ``batch.count``. An empty batch has loss 0 and
        gradient 0.

        Raises:
            ValueError: the batch does not fit the adapter.
            IndexError: a target is no class, or not in the vocabulary.
        """
        return self._model.gradients(batch, self.flat_gradient, self._sample_for(batch))

    @_flushing_subnormals()
    def add_gradients(self, batch: Batch | PackedBatch) -> float:
        """As :meth:`gradients`, adding to ``flat_gradient``: for a batch that comes in parts."""
        return self._model.add_gradients(batch, self._sample_for(batch)) if batch.size else 0.0

    def _sample_for(self, batch: Batch | PackedBatch) -> StepSample | None:
        return self._sample_of_step() if batch.candidates is not None and batch.size else None

    @property
    def token_counts(self) -> Counts | None:
        """How likely tokens are, by which others are sampled. A part of the state."""
        return self._counts

    @token_counts.setter
    def token_counts(self, counts: Counts) -> None:
        self._counts, self._sample = counts, None

    def _sample_of_step(self) -> StepSample:
        if self._counts is None or self._head is None:
            raise ValueError("a batch with candidates came before what to sample others by")
        if self._sample is None or self._sample[0] != self.step:
            tail = draw_tail(tail_of(self._counts), seed=self._seed, step=self.step)
            self._sample = self.step, StepSample.gather(tail, self._head)
        return self._sample[1]

    def named_gradients(self) -> dict[str, NDArray[np.float32]]:
        """``flat_gradient`` by parameter, as views."""
        return self._parameters.named_gradients()

    @_flushing_subnormals()
    def apply(self, gradient_P: NDArray[np.float32], count: int = 1) -> None:
        """Clips and applies the global batch's mean gradient; ``step`` advances.

        Args:
            gradient_P: summed over ``count`` samples or tokens, (P,); may be written to.
            count: of the global batch; where nothing counts, the gradient is 0 and this 1.

        Raises:
            UnresumableError: the gradient is not finite; nothing was changed.
            ValueError: it is not (P,) float32.
        """
        self._optimizer.apply(gradient_P, count)
        update_average(
            self._average.values, self._parameters.values, self.step, self._average_steps
        )

    @_flushing_subnormals()
    def outputs(self, batch: Batch | PackedBatch) -> NDArray[Any]:
        """Computes what the averaged weights say of a batch, float32 unless said.

        (B, C) logits; (B, 1) float64 values in the targets' units; for language models (B, 3): the
        loss in nats summed over the counted tokens of each sample, how many these are, and
        how many of them have the largest logit.
        """
        return self._average_model.outputs(batch)

    def state(self) -> bytes:
        """Averaged weights by name, and all that training needs to go on, as safetensors."""
        own: dict[str, NDArray[Any]] = {_CURRENT: self.flat_parameters}
        if self._counts is not None:
            own[_COUNTS] = self._counts
        return write_tensors({**self._average.named(), **self._optimizer.state(), **own})

    def load_state(self, data: bytes, step: int | None = None) -> None:
        """Takes over what :meth:`state` wrote, after ``step`` updates; unchanged if it raises.

        Raises:
            BadInputError: damaged, of an adapter of another shape, or after other updates.
        """
        where = "trainer state"
        tensors = read_tensors(data, where)
        self._optimizer.check(tensors, where, step)
        shape = self.flat_parameters.shape
        check_tensor(tensors, _CURRENT, shape, self.flat_parameters.dtype, where)
        if _COUNTS in tensors:
            counts, vocabulary = tensors[_COUNTS], self._head.vocabulary if self._head else 0
            if counts.dtype != np.int64 or not is_counts(counts, vocabulary):
                raise BadInputError(f"{where}: {_COUNTS!r} is not what tokens are drawn by")
        self._average.load(tensors, where)
        np.copyto(self.flat_parameters, tensors[_CURRENT])
        self._optimizer.load(tensors)
        if _COUNTS in tensors:
            self.token_counts = tensors[_COUNTS].copy()


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
        torch.set_num_threads(threads)
        self._model = Model(from_bytes(config, weights), head)

    @_flushing_subnormals()
    def outputs(self, batch: Batch | PackedBatch) -> NDArray[Any]:
        """As :meth:`Trainer.outputs`."""
        return self._model.outputs(batch)
