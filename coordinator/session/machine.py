"""The session: takes events in, works on the first goal that lacks something. Pure.

:meth:`Session.handle` takes one event in, which changes facts, and then asks for what the first
unreached goal lacks; see :mod:`.goals.order` for these. Time enters with each event; the actions
that come out are carried out by :mod:`coordinator.cluster.server`.
"""

import logging
from collections.abc import Mapping

from coordinator.planner.problem.links import LinkMeasurement
from coordinator.protocol.actions import Action, Finish, Record, Send
from coordinator.protocol.events import Cloned, Event, Joined, Lost, Received, Tick
from coordinator.protocol.job import Job
from coordinator.protocol.record import SessionRecord
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import UserError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan

from . import clock, departures, talk
from .failures import check_software, explain_clone, stop
from .goals import measuring, order, planning
from .link_schedule import Pair
from .measurements import KnownDevices, known_devices
from .state import State

logger = logging.getLogger(__name__)


class Session:
    """Runs one fine-tuning, evaluation or prediction, from the first hello to the last byte.

    Attributes:
        job: to be done.
        phase: current one; see :mod:`.goals.order`.
        record: everything that was seen so far.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.phase = "gathering"
        self.state = State(job)
        self._begun = False

    @property
    def record(self) -> SessionRecord:
        """Everything that was seen so far."""
        return self.state.record

    @property
    def plan(self) -> Plan:
        """The plan, once profiling is over: the last one that there was."""
        if self.record.plan is None:
            raise RuntimeError("the plan is not made yet")
        return self.record.plan

    @property
    def devices(self) -> frozenset[DeviceId]:
        """Devices that take part now."""
        return frozenset(self.state.members.here)

    @property
    def asked(self) -> dict[DeviceId, tuple[type[m.Message], ...]]:
        """What each device was asked for and has not answered yet; nothing of those absent."""
        found: dict[DeviceId, tuple[type[m.Message], ...]] = {}
        for device, question in self.state.questions:
            found[device] = (*found.get(device, ()), question.ask.kind)
        return found

    def reuse(self, known: KnownDevices) -> None:
        """Has what is known not measured again, where it still holds; before anything else."""
        self.state.known = known

    def give_links(self, links: Mapping[Pair, LinkMeasurement]) -> None:
        """Has links not measured that are known for certain; before anything else."""
        self.state.linking.give(links)

    @property
    def measured(self) -> KnownDevices:
        """Measurements for later sessions, with what this one has found."""
        state = self.state
        here, linked, experience = state.members.here, state.profiles, state.experience
        found = {name: linked.get(name, member.profile) for name, member in here.items()}
        profiles = {
            name: experience.learn(profile)
            for name, profile in found.items()
            if profile is not None
        }
        joined = {name: member.joined for name, member in here.items()}
        return known_devices(self.job.manifest, joined, profiles, self.state.linking.measured)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes one event in, at time ``now`` (seconds, any epoch, never falling)."""
        state = self.state
        state.now = now
        if not self._begun:
            state.began, self._begun = now, True
        if self.phase in ("finished", "failed"):
            return []
        try:
            if self._take_in(event):
                self._decide()
        except UserError as error:
            self.phase = "failed"
            state.do(*stop(error, self.job, state.members.here))
        out, state.out = state.out, []
        return out

    def _take_in(self, event: Event) -> bool:
        """Changes facts by an event; True if that may matter to some goal."""
        match event:
            case Joined():
                return self._join(event)
            case Lost():
                return departures.lose(self.state, event)
            case Cloned():
                if event.device in self.job.devices:
                    raise explain_clone(event.device)
                return False
            case Tick():
                return clock.tick(self.state)
            case Received():
                return talk.listen(self.state, event)

    def _join(self, event: Joined) -> bool:
        state, device = self.state, event.device
        if device not in self.job.devices:
            return False
        if device in state.members.quarantined:
            state.do(Send(device=device, message=m.Shutdown()))
            return False
        if device in state.members.here:
            departures.lose(state, Lost(device=device, reason="its connection broke"))
        try:
            check_software(device, event.hello)
        except UserError as error:
            if not state.gathered:
                raise
            # The others go on; it may come back when it has the right version.
            state.note("device_refused", device=device, reason=str(error))
            state.do(Send(device=device, message=m.Shutdown()))
            return True
        state.members.join(event, aside=state.gathered)
        for pair in state.relayed.joined(device, event.hello.data_address):
            state.linking.forget_pair(*pair)
        state.settled = False
        if state.gathered:
            state.linking.forget(device)
        state.linking.reuse(state.known.links_between(state.joined))
        state.record.welcome(device, event.hello.roles)
        fields: dict[str, object] = {"device": device}
        if self.job.local:
            fields["pid"] = event.hello.process_id
        welcome = m.Welcome(heartbeat_seconds=self.job.heartbeat_seconds)
        state.do(Send(device=device, message=welcome, term=state.term))
        state.do(Record(event="device_joined", fields=fields))
        return True

    def _decide(self) -> None:
        """Asks for what the first unreached goal lacks; with none left, the session is over."""
        state = self.state
        if state.gathered and not state.collecting:
            self._look_aside()
        for goal in order.of(state):
            term = state.term
            todo = goal(state)
            if state.term != term:
                return self._decide()
            if todo is None:
                continue
            if todo.phase != self.phase:
                logger.info("phase %s", todo.phase)
                self.phase, state.last_progress = todo.phase, state.now
                state.longest_seconds = 0.0
                talk.count_for(state, todo.phase)
            for device, ask in todo.asks.items():
                talk.ask(state, device, ask)
            return None
        self.phase = "finished"
        for device in state.members.here:
            state.do(Send(device=device, message=m.Shutdown()))
        state.note("finished")
        state.do(Finish())
        return None

    def _look_aside(self) -> None:
        """Has joiners measured; while the fill is under way, they take part as soon as it pays."""
        state, before = self.state, self.state.settled
        for device, asks in measuring.measure_aside(state).items():
            for ask in asks:
                talk.ask(state, device, ask)
        filling = state.fill is not None and not state.training_begun
        if state.settled and not before and filling:
            planning.consider(state)
