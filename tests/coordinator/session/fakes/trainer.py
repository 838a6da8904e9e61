"""The adapter of a fake device: it only counts, but its state tells which lines took part where.

Gradients are vectors of small integers, so that sums are the same however lines are grouped,
and a run that was disturbed must end with the very bytes of one that was not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import step_sizes, steps_per_epoch
from tests.coordinator.session.fakes.replica import (
    PARAMETERS,
    Replica,
    order_of,
    summed_gradient,
)
from tests.coordinator.session.fakes.settings import FakeSettings

Post = Callable[[m.Message], None]
PostTo = Callable[[DeviceId, m.Message], None]

Readable = Callable[[np.ndarray], np.ndarray]
"""(N, 32) uint8 keys -> (N,) bool: the states of those samples are there."""

MOST_TOKENS = 1 << 20
"""Of a sample, that fake devices believe."""


def loss_of(index: int, epoch: int) -> float:
    """The loss that fake trainers find for line ``index``."""
    return (index + 1) / epoch


def output_of(index: int, epochs_done: int) -> tuple[float, float]:
    """The outputs that fake trainers compute for evaluation line ``index``.

    A language model's third column is 0.
    """
    return float(index), float(epochs_done)


def count_of(targets: np.ndarray) -> int:
    """The divisor of a mean loss."""
    return int((targets >= 0).sum()) if targets.dtype == np.int32 else len(targets)


@dataclasses.dataclass(slots=True)
class _Group:
    term: int
    trainers: tuple[DeviceId, ...]
    parts: dict[tuple[int, DeviceId], m.GradientPart] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class _Epoch:
    request: m.TrainEpoch
    steps: list[np.ndarray]
    sizes: list[int]
    last: int
    sent: bool = False


class FakeTrainer:
    """Trains step by step: gives its part, and applies the step once all parts are there.

    ``trained`` epochs are behind an adapter that is only evaluated.

    Attributes:
        replica: outlives the session if the coordinator is gone.
        reject: tells who has sent what is wrong.
        applied: (epoch, step in it) of every update that was made here.
        settings: those that it trains side by side.
        own_seconds_per_sample: what it says that its samples took it without the others.
    """

    def __init__(self, me: DeviceId, trained: int) -> None:
        self._me, self._trained = me, trained
        self.reject: Callable[[DeviceId, str], None]
        self.request: m.SetUpTraining | None = None
        self.replica: Replica | None = None
        self.token_counts: np.ndarray | None = None
        self.sums = m.NOTHING_SUMMED
        self.applied: list[tuple[int, int]] = []
        self.settings = FakeSettings()
        self._kept: tuple[object, ...] | None = None
        self._group: _Group | None = None
        self._epoch: _Epoch | None = None
        self.own_seconds_per_sample = 0.0

    def begin_session(self) -> None:
        """Keeps nothing but the replica."""
        self.request = None
        self.begin_term()

    def begin_term(self) -> None:
        """Gives up the step that is under way."""
        self._group = self._epoch = None

    @property
    def epochs_done(self) -> int:
        """Whole epochs that are behind the adapter."""
        request = self.request
        if request is None or self.replica is None or not request.total_steps:
            return self._trained
        return self.replica.step * request.options.epochs // request.total_steps

    # ---- state

    def set_up(self, request: m.SetUpTraining) -> m.TrainingReady:
        """Makes the adapter, or keeps the one that is there if it is of the same run."""
        assert (request.head is not None) == request.config.generative
        self.request = request
        self.settings.forget()
        if request.adapter_graph is not None:
            self.replica = self._kept = self._group = None
            return m.TrainingReady(parameters=0)
        asked = (request.run, request.config, request.options, request.total_steps)
        if not (request.run and self.replica and self._kept == asked):
            self._group = None
            state = request.state.tobytes()
            self.replica = Replica.parse(state) if state else Replica()
            self._kept, self.sums = asked, request.sums
        return m.TrainingReady(parameters=PARAMETERS, step=self.replica.step, sums=self.sums)

    def take_state(self, request: m.TakeState) -> m.StateTaken:
        """Goes on from another trainer's state."""
        self._replica()
        taken = Replica.parse(request.data.tobytes())
        if taken.step != request.step:
            raise RemoteError(f"the state is of step {taken.step}, not {request.step}")
        self.replica, self.sums, self._group = taken, request.sums, None
        return m.StateTaken(step=taken.step)

    def state(self) -> m.TrainerState:
        replica = self._replica()
        data = np.frombuffer(replica.state, np.uint8)
        return m.TrainerState(data=data, step=replica.step, sums=self.sums)

    def _replica(self) -> Replica:
        if self.request is None or self.replica is None:
            raise RemoteError("training was not set up")
        return self.replica

    def answer(
        self, message: m.TakeState | m.CountTokens | m.SendState, owned: m.OwnSamples | None
    ) -> m.Message:
        """Answers what is asked between steps."""
        match message:
            case m.TakeState():
                return self.take_state(message)
            case m.CountTokens():
                return self.count_tokens(owned)
            case m.SendState():
                return self.state()

    # ---- steps

    def count_tokens(self, owned: m.OwnSamples | None) -> m.TokenCounts:
        """Counts its samples as the weight of every token."""
        self._replica()
        if owned is None:
            raise RemoteError("this device owns no train samples")
        assert self.request is not None
        vocabulary = self.request.config.num_outputs
        return m.TokenCounts(counts=np.full((2, vocabulary), len(owned.keys), np.int64))

    def form_group(self, request: m.FormGroup, term: int) -> None:
        """Takes parts of these trainers from now on."""
        replica = self._replica()
        assert self.request is not None
        samples = self.request.config.generative and self.request.options.loss == "candidates"
        if (request.token_counts is not None) != (samples and replica.step == 0):
            raise RemoteError("only a new adapter is told what tokens are sampled by")
        if request.token_counts is not None:
            self.token_counts = request.token_counts
        if self._me not in request.trainers:
            raise RemoteError("a device was told to train but is not among the trainers")
        self._group = _Group(term, request.trainers)
        if self._kept is not None and request.run:
            self._kept = (request.run, *self._kept[1:])

    def deliver(self, sender: DeviceId, part: m.GradientPart | m.ReducedPart, term: int) -> None:
        """Takes a peer's part in."""
        group = self._group
        if group is None or group.term != term or self.replica is None or self.request is None:
            raise RemoteError("a gradient came before a group was formed")
        if not isinstance(part, m.GradientPart):
            raise RemoteError("fake trainers reduce nothing for others")
        step, most = self.replica.step, self.request.options.batch_size
        known = sender in group.trainers and sender != self._me
        if not known or not step <= part.step <= step + 1 or (part.step, sender) in group.parts:
            raise RemoteError(f"unexpected gradient part of step {part.step}")
        tokens = MOST_TOKENS if self.request.config.generative else 1
        if part.samples > most or part.count > part.samples * tokens:
            raise RemoteError(f"gradient part of {part.samples} samples, count {part.count}")
        if not (part.scale > 0 and np.isfinite(part.values).all() and np.isfinite(part.scale)):
            raise RemoteError("gradient part that is not finite")
        if part.values.shape != (PARAMETERS,):
            raise RemoteError(f"gradient part of {part.values.shape} values")
        group.parts[part.step, sender] = part

    @property
    def awaited(self) -> tuple[DeviceId, ...]:
        """Whose parts the step that is under way lacks."""
        if self._epoch is None or not self._epoch.sent or self._group is None:
            return ()
        assert self.replica is not None
        step, parts = self.replica.step, self._group.parts
        return tuple(name for name in self._group.trainers if (step, name) not in parts)

    def train(
        self,
        request: m.TrainEpoch,
        owned: m.OwnSamples,
        reads: Readable,
        post: Post,
        post_to: PostTo,
    ) -> bool:
        """Goes on by a step, or to where parts of others are needed; True at the end."""
        if self._epoch is None:
            self._epoch = self._begin(request, owned)
        epoch = self._epoch
        assert self.replica is not None
        if self.sums.steps < epoch.last:
            if not epoch.sent:
                if not reads(owned.keys[epoch.steps[self.sums.steps]]).all():
                    raise RemoteError("lacks samples that it is to train on")
                self._give_part(epoch, owned, post_to)
            if not self.awaited:
                self._check_samples(epoch)
            if self.awaited:
                return False
            self._apply(epoch, post)
        if self.sums.steps < epoch.last:
            return False
        self._epoch = None
        chosen = epoch.steps[epoch.request.first_step : epoch.last]
        own = self.own_seconds_per_sample * sum(map(len, chosen))
        post(m.EpochDone(sums=self.sums, seconds=max(1.0, own), own_seconds=own))
        return True

    def outputs(self, request: m.Evaluate, owned: m.OwnSamples, reads: Readable) -> m.Outputs:
        """Evaluates this device's samples, or those that are asked for."""
        assert self.request is not None
        chosen = np.ones(len(owned.indices), bool)
        if request.indices is not None:
            chosen = np.isin(owned.indices, request.indices)
            if chosen.sum() != len(request.indices):
                raise RemoteError("asked for outputs of samples that are another device's")
        if not reads(owned.keys[chosen]).all():
            raise RemoteError("lacks samples that it is to evaluate")
        indices, config = owned.indices[chosen], self.request.config
        outputs = np.zeros((len(indices), 3 if config.generative else config.num_outputs))
        for row, index in zip(outputs, indices.tolist(), strict=True):
            row[:2] = output_of(index, self.epochs_done)
        return m.Outputs(indices=indices, outputs=outputs.astype(np.float32))

    def give_up(self) -> None:
        """The epoch is refused."""
        self._epoch = None

    def _begin(self, request: m.TrainEpoch, owned: m.OwnSamples) -> _Epoch:
        replica, setup = self._replica(), self.request
        assert setup is not None
        if self._group is None:
            raise RemoteError("no group of trainers was formed")
        num_steps = steps_per_epoch(owned.total, setup.options.batch_size)
        wanted = (request.epoch - 1) * num_steps + request.first_step
        if replica.step != wanted:
            raise RemoteError(f"the adapter is at step {replica.step}, not {wanted}")
        if request.first_step == 0:
            self.sums = m.EpochSums(epoch=request.epoch)
        if (self.sums.epoch, self.sums.steps) != (request.epoch, request.first_step):
            raise RemoteError("the sums are of another step")
        last = num_steps
        if request.num_steps is not None:
            last = request.first_step + request.num_steps
        if not request.first_step <= last <= num_steps:
            raise RemoteError(f"epoch {request.epoch} has no step {last}")
        tokens = np.sum([each.astype(np.int64) for each in owned.lengths.values()], 0)
        steps = order_of(owned.ranks, tokens, owned.total, setup.options, request.epoch)
        options = setup.options
        seed, batch = options.seed, options.batch_size
        sizes = step_sizes(owned.total, batch, seed=seed, epoch=request.epoch).tolist()
        return _Epoch(request, steps, sizes, last)

    def _give_part(self, epoch: _Epoch, owned: m.OwnSamples, post_to: PostTo) -> None:
        assert self.replica is not None
        assert self._group is not None
        chosen, number = epoch.steps[self.sums.steps], epoch.request.epoch
        lines = owned.indices[chosen].tolist()
        part = m.GradientPart(
            step=self.replica.step,
            values=np.array(summed_gradient(lines, number), np.float16),
            count=_count(owned, chosen),
            samples=len(lines),
            loss_sum=sum(loss_of(line, number) for line in lines),
        )
        self._group.parts[part.step, self._me] = part
        epoch.sent = True
        for peer in self._group.trainers:
            if peer != self._me:
                post_to(peer, part)

    def _check_samples(self, epoch: _Epoch) -> None:
        """Takes no step from parts that are not all of its samples; a liar's is thrown away."""
        assert self.replica is not None
        assert self._group is not None
        step, parts = self.replica.step, self._group.parts
        given = {name: parts[step, name].samples for name in self._group.trainers}
        found, size = sum(given.values()), epoch.sizes[self.sums.steps]
        if found == size:
            return
        others = [name for name in given if name != self._me]
        rest = size - given[self._me]
        liars = [name for name in others if given[name] > rest or len(others) == 1]
        if not liars:
            raise RemoteError(f"{found} samples in a step of {size}")
        for name in liars:
            del parts[step, name]
            self.reject(name, f"{found} samples in a step of {size}")

    def _apply(self, epoch: _Epoch, post: Post) -> None:
        assert self.replica is not None
        assert self._group is not None
        step = self.replica.step
        parts = [self._group.parts.pop((step, name)) for name in self._group.trainers]
        total = np.sum([part.values.astype(np.int64) for part in parts], 0)
        self.replica = self.replica.applied(tuple(total.tolist()))
        self.applied.append((self.sums.epoch, self.sums.steps))
        self.sums = m.EpochSums(
            epoch=self.sums.epoch,
            steps=self.sums.steps + 1,
            samples=self.sums.samples + sum(part.samples for part in parts),
            count=self.sums.count + sum(part.count for part in parts),
            loss_sum=self.sums.loss_sum + sum(part.loss_sum for part in parts),
        )
        epoch.sent = False
        post(m.Progress(sums=self.sums))


def _count(owned: m.OwnSamples, chosen: np.ndarray) -> int:
    if owned.targets.dtype != np.int32:
        return len(chosen)
    ends = np.cumsum(owned.lengths["decoder"], dtype=np.int64)
    starts = ends - owned.lengths["decoder"]
    return sum(count_of(owned.targets[starts[i] : ends[i]]) for i in chosen.tolist())
