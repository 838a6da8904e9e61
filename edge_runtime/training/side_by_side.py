"""Trains several settings side by side: each batch is read once for all of them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import AllReduceClosedError, RemoteError, UnresumableError
from edge_runtime.contract.held_out import HeldOut
from edge_runtime.contract.order import epoch_order, steps_per_epoch
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.messaging.outbox import Outbox
from edge_runtime.messaging.tagging import current_tag
from edge_runtime.parallel_adapters import PackedBatch
from edge_runtime.serving.pieces import groups_by_length

from .line_candidates import LineCandidates
from .replica import Replica
from .samples import OwnedSamples

PROGRESS_SECONDS = 0.25


@dataclasses.dataclass(slots=True)
class _Lane:
    """One setting's adapter, in a request."""

    replica: Replica
    seconds: float = 0.0
    loss: float = 0.0
    count: int = 0
    correct: int = 0
    diverged: bool = False

    def held_out(self) -> HeldOut:
        """What it comes to on the evaluation samples."""
        classes = self.replica.config.task == "classification"
        count = max(1, self.count)
        return HeldOut(loss=_mean(self), accuracy=self.correct / count if classes else None)


class SideBySide:
    """Adapters of several settings, trained by one device alone.

    What each comes to is what it would come to alone, bit by bit: a device that trains alone
    sums its own gradients only, in the same order.
    """

    def __init__(
        self, request: m.SetUpTraining, head: FrozenHead | None, files: WeightStore
    ) -> None:
        """Makes adapters as ``request`` says, but of other settings."""
        self._request = dataclasses.replace(request, state=np.zeros(0, np.uint8))
        self._head, self._files = head, files
        self._replicas: dict[int, Replica] = {}
        self._has_best = False
        self._term, self._first_term = 0, 0.0

    def begin_term(self, term: float = math.inf) -> None:
        """Ends steps of earlier terms, under way or about to begin; for the I/O thread."""
        self._first_term = term

    def train(
        self,
        request: m.TrainSettings,
        owned: OwnedSamples,
        held_out: OwnedSamples,
        lines: LineCandidates | None,
        outbox: Outbox,
    ) -> None:
        """Trains the steps with every setting, evaluates each, and says what they come to.

        Raises:
            RemoteError: the settings are at another step, samples are another device's, or what
                tokens are to be sampled by is unknown or of another vocabulary.
            AllReduceClosedError: the term or the session ended.
            UnresumableError: not one setting's numbers are finite, nor were they after an epoch.
        """
        self._term = current_tag().term
        batches = _batches(request, owned)
        for each in request.settings:
            owned.check_for(each.config)
            held_out.check_for(each.config)
        self._choose(request)
        if lines is not None:  # which all settings search alike
            lines.search_by(next(iter(self._replicas.values())).trainer.token_counts)
        lanes = [_Lane(self._replicas[each.number]) for each in request.settings]
        clock = _Clock(outbox)
        for chosen in batches:
            self._step(lanes, owned, chosen, lines, clock)
        self._evaluate(lanes, held_out, clock)
        worth = [lane.held_out() for lane in lanes]
        state = b""
        if any(each.finite for each in worth):
            if request.sends_state:
                best = min(range(len(lanes)), key=lambda place: worth[place].rank)
                state, self._has_best = lanes[best].replica.trainer.state(), True
        elif not self._has_best:
            raise UnresumableError(
                "the loss of every setting is not a finite number: lower --learning-rate, "
                "around which they are chosen"
            )
        outbox.to_coordinator(
            m.SettingsTrained(
                losses=np.array([each.loss for each in worth]),
                correct=np.array([lane.correct for lane in lanes], np.int64),
                seconds=np.array([lane.seconds for lane in lanes]),
                shared_seconds=clock.shared,
                sums=tuple(lane.replica.sums for lane in lanes),
                parameters=np.array([lane.replica.trainer.parameters for lane in lanes]),
                state=np.frombuffer(state, np.uint8),
            )
        )

    def _choose(self, request: m.TrainSettings) -> None:
        """Keeps the adapters of these settings; at the first step of all they are made."""
        numbers = [each.number for each in request.settings]
        if request.epoch == 1 and not request.first_step:
            self._replicas.clear()
            self._has_best = False
            for each in request.settings:
                alone = dataclasses.replace(
                    self._request,
                    config=each.config,
                    options=each.options,
                    total_steps=request.total_steps,
                    run="",
                )
                replica = Replica.make(alone, self._head, self._files)
                if request.token_counts is not None:
                    replica.take_counts(request.token_counts)
                self._replicas[each.number] = replica
        if not set(numbers) <= self._replicas.keys():
            raise RemoteError("was told to go on with a setting that it does not train")
        self._replicas = {number: self._replicas[number] for number in numbers}
        for replica in self._replicas.values():
            if not request.first_step:
                replica.sums = m.EpochSums(epoch=request.epoch)
            if (replica.sums.epoch, replica.sums.steps) != (request.epoch, request.first_step):
                raise RemoteError(
                    f"a setting is not at step {request.first_step} of epoch {request.epoch}"
                )

    def _step(
        self,
        lanes: list[_Lane],
        owned: OwnedSamples,
        chosen: m.Array,
        lines: LineCandidates | None,
        clock: _Clock,
    ) -> None:
        """Applies one update of every setting."""
        if not (running := [lane for lane in lanes if not lane.diverged]):
            return
        losses, count = [0.0] * len(running), 0
        for lane in running:
            lane.replica.trainer.flat_gradient.fill(0)
        for piece in owned.pieces(chosen):
            self._check_open()
            with clock:
                batch = owned.packed_batch(piece)
                if lines is not None:
                    batch = lines.add(owned.request.keys[piece], batch)
            for place, lane in enumerate(running):
                with clock.of(lane):
                    losses[place] += lane.replica.trainer.add_gradients(batch)
                clock.report(lanes)  # with many settings, a step takes long
            count += batch.count
            owned.computed(piece)
        for lane, loss in zip(running, losses, strict=True):
            with clock.of(lane):
                _apply(lane, m.EpochSums(epoch=0, samples=len(chosen), count=count, loss_sum=loss))
        clock.report(lanes)

    def _evaluate(self, lanes: list[_Lane], held_out: OwnedSamples, clock: _Clock) -> None:
        """Sums each setting's loss on the evaluation samples, which are read once, and its hits."""
        for lane in lanes:
            lane.diverged |= not lane.replica.trainer.finite
        for group in groups_by_length(np.arange(len(held_out.tokens)), held_out.tokens):
            for piece in held_out.pieces(group):
                self._check_open()
                with clock:
                    batch = held_out.packed_batch(piece)
                for lane in lanes:
                    if lane.diverged:
                        continue
                    with clock.of(lane):
                        trainer, config = lane.replica.trainer, lane.replica.config
                        outputs = trainer.outputs(batch)
                        loss, count = summed_loss(config, outputs, batch)
                        lane.loss, lane.count = lane.loss + loss, lane.count + count
                        if config.task == "classification":
                            lane.correct += int((outputs.argmax(axis=1) == batch.targets).sum())
                    clock.report(lanes)
                held_out.computed(piece)

    def _check_open(self) -> None:
        if self._term < self._first_term:
            raise AllReduceClosedError("the term of these steps has ended")


class _Clock:
    """Counts processor seconds of this thread, and says now and then how far training is."""

    def __init__(self, outbox: Outbox) -> None:
        self.shared = 0.0
        self._outbox, self._began = outbox, 0.0
        self._lane: _Lane | None = None
        self._reported = -math.inf

    def of(self, lane: _Lane) -> _Clock:
        """Counts what is entered next for one setting."""
        self._lane = lane
        return self

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        seconds, lane = time.thread_time() - self._began, self._lane
        self._lane = None
        if lane is None:
            self.shared += seconds
        else:
            lane.seconds += seconds

    def report(self, lanes: list[_Lane]) -> None:
        """Says how far the first setting is that has not diverged."""
        if time.monotonic() - self._reported > PROGRESS_SECONDS:
            self._reported = time.monotonic()
            for lane in lanes:
                if not lane.diverged:
                    self._outbox.to_coordinator(m.Progress(sums=lane.replica.sums))
                    return


def _batches(request: m.TrainSettings, owned: OwnedSamples) -> Iterator[m.Array]:
    """Lists the samples of each step that is asked for."""
    options, total = request.settings[0].options, owned.request.total
    whole = steps_per_epoch(total, options.batch_size)
    last = request.first_step + request.num_steps
    if request.epoch < 1 or last > whole or request.total_steps != options.epochs * whole:
        raise RemoteError(
            f"epoch {request.epoch} has no steps {request.first_step} to {last} of {whole}"
        )
    if len(owned.tokens) != total:
        raise RemoteError("settings are trained by the owner of all samples alone")
    order = epoch_order(
        owned.request.ranks,
        owned.tokens,
        num_samples=total,
        batch_size=options.batch_size,
        seed=options.seed,
        epoch=request.epoch,
    )
    return iter(list(order)[request.first_step : last])


def _apply(lane: _Lane, of_step: m.EpochSums) -> None:
    """Applies the gradient as a trainer does that is alone; what diverges stays as it is."""
    replica, sums = lane.replica, lane.replica.sums
    trainer = replica.trainer
    try:
        if not math.isfinite(of_step.loss_sum):
            raise UnresumableError("the loss is not a finite number")
        trainer.apply(trainer.flat_gradient, max(1, of_step.count))
    except UnresumableError:
        lane.diverged = True
    else:
        replica.sums = m.EpochSums(
            epoch=sums.epoch,
            steps=sums.steps + 1,
            samples=sums.samples + of_step.samples,
            count=sums.count + of_step.count,
            loss_sum=sums.loss_sum + of_step.loss_sum,
        )


def summed_loss(config: AdapterConfig, outputs: m.Array, batch: PackedBatch) -> tuple[float, int]:
    """Sums the loss over a batch of evaluation samples, as the trainer's: see ``Trainer``.

    Returns:
        The sum, and the count to divide it by: samples, or counted tokens.
    """
    if config.generative:
        return float(outputs[:, 0].sum(dtype=np.float64)), int(outputs[:, 1].sum())
    if config.task == "regression":
        found = config.standardized(outputs.reshape(-1)).astype(np.float64)
        return float(np.square(found - batch.targets).sum()), len(outputs)
    logits = outputs.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(logits)), batch.targets]
    return float((np.log(np.exp(shifted).sum(axis=1)) - own).sum()), len(logits)


def _mean(lane: _Lane) -> float:
    """The mean loss; infinite where it is no number, and never below 0 by rounding."""
    loss = lane.loss / max(1, lane.count)
    is_sound = lane.count and not lane.diverged and math.isfinite(loss)
    return max(0.0, loss) if is_sound else math.inf  # max() would make 0 of what is no number
