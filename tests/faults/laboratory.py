"""A cluster whose devices are killed, hang, lie, refuse and come back, and whose coordinator dies.

Checks at every step what must hold whatever happens; see :mod:`.claims` for the end.
"""

import collections
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from coordinator.protocol.actions import Action, KeepEvaluation, Record, SaveCheckpoint, Send
from coordinator.protocol.events import Event, Lost, Received, Tick
from coordinator.session.machine import Session
from coordinator.workload.fill import Fill
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import encode
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.order import epoch_order
from tests.coordinator.session.fakes.cluster import Cluster, Step
from tests.coordinator.session.fakes.device import TaggedPost, TaggedPostTo
from tests.coordinator.session.fakes.replica import Replica, summed_gradient, undisturbed
from tests.faults.lies import LIES, broken_part
from tests.faults.worlds import World

TELEMETRY = (m.Progress, m.BatchServed, m.SamplesSent, m.Heartbeat, m.Awaiting, m.Notice, m.Stored)
KEPT_BY_ALL_TERMS = (m.Stored, m.Notice, m.Heartbeat)


@dataclasses.dataclass(frozen=True)
class Lie:
    """A lie that a device is going to tell, in its next message or in its next one of a kind."""

    chance: random.Random
    only: type[m.Message] | None = None


class Laboratory(Cluster):
    """Plays a world with faults.

    Attributes:
        frozen: devices that do nothing, though their process lives.
        undetected: devices that are gone, which the session does not know yet.
        liars: lies by device; ``offences`` has refusals, hangs and accusations as well.
        heard: everything that the session was told, with the time, and what it then did.
        alone: the session had a single device when it failed.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        super().__init__(world.job, world.profiles, world.held, window=10**6)
        self.world, self.chance = world, chance
        self.down |= world.late
        for name, pace in world.paces.items():
            self.devices[name].trainer.own_seconds_per_sample = pace
        for name, room in world.rooms.items():
            cached = self.devices[name].cached
            cached.room, cached.memory_bytes = room
        self.frozen: set[DeviceId] = set()
        self.undetected: set[DeviceId] = set()
        self.lies: dict[DeviceId, Lie] = {}
        self.refusing: set[DeviceId] = set()
        self.liars: collections.Counter[DeviceId] = collections.Counter()
        self.offences: collections.Counter[DeviceId] = collections.Counter()
        self.said: list[Received] = []
        self.heard: list[tuple[Event, float, list[Action]]] = []
        self.sessions = 1
        self.alone = False
        self.applied: list[tuple[int, int, int]] = []
        self.reference = _reference(world)
        self._checked_fill: Fill | None = None
        self._roundings: dict[tuple[str, int, int], str] = {}

    # ---- what happens

    def wire(self, message: m.Message, tag: Tag) -> tuple[m.Message, Tag]:
        """Nothing is encoded: that is tested elsewhere."""
        return message, tag

    def steps(self) -> Iterator[Step]:
        return (step for step in super().steps() if step.device not in self.frozen)

    def check_said(self, name: DeviceId, message: m.Message) -> None:
        """Devices may refuse what a fault has made impossible."""

    def _receive(self, name: DeviceId) -> None:
        if self._up[name][0][1].session not in ("", self.job.session):
            self._up[name].popleft()  # the server drops what belongs to another session
            return
        super()._receive(name)

    def _post(self, name: DeviceId) -> TaggedPost:
        post = super()._post(name)

        def lie(message: m.Message, tag: Tag) -> None:
            lacks = isinstance(message, m.Failed) and message.reason.startswith("lacks samples")
            assert not lacks, f"{name} {message}"
            if type(message) in LIES and (chance := self.lie(name, type(message))):
                message = LIES[type(message)](message, chance)
            post(message, tag)

        return lie

    def lie(self, name: DeviceId, kind: type[m.Message]) -> random.Random | None:
        """What draws the lie that a device tells in a message of this kind; None for the truth."""
        lie = self.lies.get(name)
        if lie is None or lie.only not in (None, kind):
            return None
        del self.lies[name]
        self.liars[name] += 1
        return lie.chance

    def _post_to(self, name: DeviceId) -> TaggedPostTo:
        post_to = super()._post_to(name)

        def lie(to: DeviceId, message: m.Message, tag: Tag) -> None:
            if to in self.down:
                return
            if isinstance(message, m.GradientPart) and (chance := self.lie(name, type(message))):
                message = broken_part(message, chance)
            post_to(to, message, tag)

        return lie

    def _work(self, name: DeviceId) -> None:
        device = self.devices[name]
        message, tag, sender = device.jobs[0]
        if name in self.refusing and sender is None:
            self.refusing.discard(name)
            device.trainer.give_up()
            device.jobs.popleft()
            self._post(name)(m.Failed(reason="out of memory"), tag)
            return
        before = device.trainer.replica
        super()._work(name)
        if isinstance(message, m.TrainEpoch) and before is not device.trainer.replica:
            self._check_step(name, tag)

    def _check_step(self, name: DeviceId, tag: Tag) -> None:
        """A trainer has applied an update: the right one, and the same at all of its group."""
        trainer = self.devices[name].trainer
        assert trainer.replica is not None
        replica = trainer.replica = trainer.replica.rounded(f"{tag.session}/{tag.term}")
        assert replica == self.reference[replica.step], f"{name}: another replica"
        step = tag.session, tag.term, replica.step
        same = self._roundings.setdefault(step, replica.rounding) == replica.rounding
        assert same, f"{name}: a replica that has gone another way than those of its group"

    # ---- the session

    def tell(self, event: Event) -> list[Action]:
        here = len(self.session.devices)
        if isinstance(event, Received):
            self.said.append(event)
        actions = super().tell(event)
        self.heard.append((event, self.clock, actions))
        self.alone = self.failure is not None and (self.alone or here <= 1)
        if not self.over:
            self._check_fill()
        return actions

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Record) and action.event == "steps_applied":
            fields = action.fields
            self.applied.append((fields["epoch"], fields["first"], fields["last"]))
        if isinstance(action, SaveCheckpoint):
            self._check_evaluated(action.step)
        if isinstance(action, KeepEvaluation) and action.state:
            step = action.best * self.job.steps_per_epoch
            best = Replica.parse(action.state)
            assert best == self.reference[step], "another state than that of the best epoch"
        super()._carry_out(action)

    def _check_evaluated(self, step: int) -> None:
        """Nobody trains on before an epoch is evaluated: its adapter would be gone."""
        evaluated = self.evaluations[-1].evaluated if self.evaluations else {}
        over = range(1, (step - 1) // self.job.steps_per_epoch + 1)
        missing = [epoch for epoch in over if epoch not in evaluated]
        assert not (missing and self.job.evaluates_epochs), f"not evaluated in time: {missing}"

    def _send(self, name: DeviceId, message: m.Message, tag: Tag) -> None:
        leaves = isinstance(message, m.Shutdown | m.Rejoin)
        here = self.over or name in self.session.devices
        assert leaves or here, f"{type(message).__name__} was sent to {name}, who is not here"
        if name in self.joined:  # or else a new process of it, which drops what it cannot know
            super()._send(name, message, tag)

    def _check_fill(self) -> None:
        fill = self.session.state.fill
        if fill is None:
            return
        waiting = {item.number for item in fill._leases._waiting}
        assert not waiting & fill._leases._leased.keys(), "a lease is waiting and leased"
        assert waiting | fill._leases._leased.keys() <= fill.items.keys(), "a lease out of nothing"
        if fill is self._checked_fill:
            return
        self._checked_fill = fill
        state = self.session.state
        keys = state.catalogue.keys[state.catalogue.distinct[fill.which][fill.work.lines]]
        for name, member in state.members.here.items():
            device = self.devices[name]
            told = not any(isinstance(each, m.Stored) for each, _ in self._up[name])
            honest = not self.liars[name]
            if (
                honest
                and member.cache_open
                and told
                and device.cached.opened
                and name not in self.down
            ):
                again = device.cached.holds(keys).any()
                assert not again, f"what {name} holds is computed again"

    # ---- faults

    def freeze(self, name: DeviceId) -> None:
        """The device stops, and its connections stay."""
        self.frozen.add(name)

    def wake(self, name: DeviceId) -> None:
        """It goes on as if nothing had been."""
        self.frozen.discard(name)

    def kill(self, name: DeviceId) -> None:
        super().kill(name)
        self.frozen.discard(name)
        self.lies.pop(name, None)
        self.refusing.discard(name)
        self.undetected.add(name)
        if self.chance.random() < 0.5:
            self._up[name].clear()

    def detect(self, name: DeviceId) -> None:
        """The session learns that a device is gone."""
        self.undetected.discard(name)
        self.tell(Lost(device=name, reason="its connection closed"))

    def start_again(self, name: DeviceId) -> None:
        super().start_again(name)
        self.undetected.discard(name)

    def cut(self, one: DeviceId, other: DeviceId) -> None:
        """What two devices have sent each other is lost, and at least one says so."""
        for pair in ((one, other), (other, one)):
            self._mesh[pair].clear()
        for name, peer in ((one, other), (other, one)):
            device = self.devices[name]
            if name not in self.down and device.session and peer in device.peers:
                post = self._post(name)
                post(m.PeerLost(peer=peer, reason="no route"), device._own_tag)

    def repeat(self, event: Received) -> None:
        """Something arrives a second time; of an old term, or an answer, it must not matter."""
        if event.device not in self.session.devices or isinstance(event.message, m.Hello):
            return
        term = self.session.state.term
        old = 0 < event.term < term
        if not old and type(event.message) in m.ANSWER_OF.values():
            self._answer_again(event)
            return
        if not old and not isinstance(event.message, TELEMETRY):
            return
        before = self._facts()
        actions = self.tell(event)
        if old and not isinstance(event.message, KEPT_BY_ALL_TERMS):
            assert not actions, f"{event.message} of term {event.term} was acted on in {term}"
            assert self._facts() == before, f"{event.message} of an old term changed something"

    def _answer_again(self, event: Received) -> None:
        """Nobody waits for an answer any more that was given, whatever else is asked meanwhile."""
        if self.session.state.questions.is_open(event.device, event.reply):
            return  # it went to a process that has ended, or is to come
        before = self._facts()
        actions = self.session.handle(event, self.clock)
        self.heard.append((event, self.clock, actions))
        assert not actions, f"{event.message} was acted on twice"
        assert self._facts() == before, f"{event.message} changed something a second time"

    def _facts(self) -> Any:
        state = self.session.state
        return repr((state.term, state.members.here, state.saved.step, state.target, state.plan))

    def resume(self, session: str) -> None:
        """The coordinator dies; another goes on from the last checkpoint and group name."""
        saved: dict[str, Any] = {}
        if self.checkpoints:
            last: SaveCheckpoint = self.checkpoints[-1]
            saved = {"state": last.state, "steps_done": last.step, "sums": last.sums}
        names = [event.fields["run"] for event in self.events if event.event == "group_formed"]
        self.job = dataclasses.replace(
            self.job,
            **saved,
            evaluated=self.evaluations[-1].evaluated if self.evaluations else {},
            session=session,
            run=names[-1] if names else self.job.run,
            evaluate_before=self.job.evaluate_before
            and not saved
            and self.session.record.outputs_before is None,
        )
        self.check_replay()
        self.session = Session(self.job)
        self.sessions += 1
        self.joined.clear()
        self.undetected.clear()
        self.leases.clear()
        self.owed.clear()
        self.heard.clear()
        self.said.clear()
        self._checked_fill = None
        for name, device in self.devices.items():
            if device.over:  # another session knows nothing of what it did in this one
                self.kill(name)
                self.start_again(name)
                self.down.discard(name)

    def awaken(self) -> None:
        """Devices say what they say by themselves when time passes."""
        for name, device in self.devices.items():
            if name in self.down | self.frozen or device.over or not device.session:
                continue
            device.report_awaited(self._post(name))
            if name not in self.session.devices and name in self.joined:
                self._up[name].append((m.Heartbeat(), device._own_tag))

    def tick(self, seconds: float) -> None:
        """Time passes."""
        self.clock += seconds
        self.tell(Tick())

    @property
    def usable(self) -> list[DeviceId]:
        """Devices that can take part."""
        gone = self.down | self.frozen | self.session.state.members.quarantined.keys()
        return [name for name in self.devices if name not in gone]

    def check_replay(self) -> None:
        """The same events at the same times give the same actions."""
        again = Session(self.session.job)
        for event, now, actions in self.heard:
            assert _texts(again.handle(event, now)) == _texts(actions), "a replay differs"


def _texts(actions: list[Action]) -> list[object]:
    return [
        (each.device, encode(each.message, Tag(session="s", term=each.term, reply=each.reply)))
        if isinstance(each, Send)
        else repr(each)
        for each in actions
    ]


def _reference(world: World) -> list[Replica]:
    """The replica after every number of steps of an undisturbed run."""
    job = world.job
    if "train" not in job.tables:
        return [Replica()]
    table = job.tables["train"]
    tokens = np.sum(list(table.samples.lengths_of.values()), 0)
    replicas = [Replica()]
    for epoch in range(1, job.options.epochs + 1):
        for chosen in epoch_order(
            *(table.ranks, tokens),
            num_samples=len(table),
            batch_size=job.options.batch_size,
            seed=job.options.seed,
            epoch=epoch,
        ):
            replicas.append(replicas[-1].applied(summed_gradient(chosen.tolist(), epoch)))
    assert replicas[-1] == undisturbed(table.ranks, tokens, job.options, job.total_steps)
    return replicas
