"""The session: what happens in which order, as a state machine without I/O or clock.

Theory of operation. Each phase sends requests to some devices and waits until all of
them have answered; then the next phase begins. Phases with nothing to do are passed::

    gathering    every expected device said hello
    profiling    every device measured itself
    admitting    data sockets admit the peers
    linking      links are measured, in rounds of disjoint pairs     -> the plan is made
    open_caches  trainers said what their caches hold          -> every shard has its owner
    deploying    stages are loaded, if anything is to compute
    filling      moves and micro-batches are leased until every owner has stored its samples
    commit_cache owners made the set durable and lack nothing
                 (deploying to commit_cache are passed for training, then for evaluation samples)
    setting up   trainers made the adapter
    evaluating   outputs before, and after, training
    training     one epoch after the other, a checkpoint after each
    generating   instead, where prompts are continued: step by step, until all have ended
                 (open_caches, filling and commit_cache are passed: nothing is cached)
    collecting   final usage of every device
    finished

Time enters with each event. Every handler returns actions; :mod:`coordinator.cluster.server`
carries them out.
"""

import collections
import functools
import logging
from collections.abc import Callable, Mapping

from coordinator.protocol.actions import Action, Finish, Record, SaveCheckpoint, Send
from coordinator.protocol.events import Cloned, Event, Joined, Lost, Received
from coordinator.protocol.job import Job
from coordinator.protocol.record import DeviceRecord, EpochRecord, SessionRecord
from coordinator.samples.samples import Catalogue, Work
from coordinator.workload.fill import Filling
from coordinator.workload.generation import Generation
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import UserError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan

from . import requests
from .answers import Answers
from .failures import check_software, explain_clone, explain_failure, lose, stop
from .measurements import KnownDevices, known_devices

logger = logging.getLogger(__name__)


class Session:
    """Runs one fine-tuning, evaluation or prediction, from the first hello to the last byte.

    Attributes:
        job: to be done.
        phase: current one; see the module's docstring.
        record: everything that was seen so far.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._catalogue = Catalogue.make(job.tables)
        self.phase = "gathering"
        self._awaited: dict[DeviceId, type[m.Message]] = dict.fromkeys(job.devices, m.Hello)
        self._usage_due: collections.Counter[DeviceId] = collections.Counter()
        self._then: Callable[[], list[Action]] = self._profile
        self._now = 0.0
        self._joined: dict[DeviceId, Joined] = {}
        self._deployed = False
        self._epoch = job.epochs_done
        self._generation: Generation | None = None
        self.record = SessionRecord()
        self._filling = Filling(job, self._catalogue, self.record)
        self._answers = Answers(job, self._catalogue, self.record)
        self._known = KnownDevices()

    @property
    def plan(self) -> Plan:
        """The plan, once profiling is over."""
        if self.record.plan is None:
            raise RuntimeError("the plan is not made yet")
        return self.record.plan

    def reuse(self, known: KnownDevices) -> None:
        """Has what is known not measured again, where it still holds; before anything else."""
        self._known = known

    @property
    def measured(self) -> KnownDevices:
        """Measurements for later sessions, once the plan is made."""
        return known_devices(self._joined, self._answers.profiles, self._answers.linking.measured)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes one event in, at time ``now`` (seconds, any epoch, never falling)."""
        self._now = now
        if self.phase in ("finished", "failed"):
            return []
        try:
            match event:
                case Joined():
                    return self._on_joined(event)
                case Lost():
                    return self._on_lost(event)
                case Cloned():
                    return self._on_cloned(event)
                case Received():
                    return self._on_message(event.device, event.message)
        except UserError as error:
            return self._fail(error)

    # ---- phases

    def _begin(
        self,
        phase: str,
        asked: Mapping[DeviceId, requests.Request],
        then: Callable[[], list[Action]],
    ) -> list[Action]:
        """Sends what is ``asked``, then waits for the answer of each device."""
        logger.info("phase %s", phase)
        self.phase, self._then = phase, then
        self._awaited = {device: requests.answer_to(request) for device, request in asked.items()}
        return requests.actions(asked) if asked else then()

    def _answered(self, device: DeviceId, message: m.Message) -> list[Action]:
        """Keeps what an answer says and ticks it off; the last one starts the next phase."""
        due = self._awaited.get(device) is type(message)
        which, epoch = self._filling.which, self._epoch
        if not (due and self._answers.fits(device, message, which=which, epoch=epoch)):
            logger.warning("%s sent %s out of turn", device, type(message).__name__)
            return []
        self._answers.keep(device, message)
        del self._awaited[device]
        return [] if self._awaited else self._then()

    def _count_for(self, phase: m.Phase) -> list[Action]:
        """Has every device count its usage for ``phase``, and say what it has used so far."""
        self._usage_due.update(self.job.devices)
        return requests.actions(dict.fromkeys(self.job.devices, m.BeginPhase(phase=phase)))

    def _on_joined(self, event: Joined) -> list[Action]:
        if event.device not in self.job.devices:
            return []
        if event.device in self._joined:
            # What was on the way when the connection broke is lost, answers included.
            return self._on_lost(Lost(device=event.device, reason="its connection broke"))
        self._joined[event.device] = event
        check_software(event.device, event.hello)
        self.record.devices[event.device] = DeviceRecord(roles=event.hello.roles)
        actions = requests.welcome(self.job, event)
        self._awaited.pop(event.device, None)
        if self.phase == "gathering" and not self._awaited:
            actions += self._then()
        return actions

    def _profile(self) -> list[Action]:
        joined = {device: event.hello for device, event in self._joined.items()}
        self.job.check_devices(joined)
        asked = requests.profiles(self.job, self._joined, self._known)
        begin = self._begin("profiling", asked, self._admit_peers)
        return [*self._count_for("profile"), *begin]

    def _admit_peers(self) -> list[Action]:
        self._answers.linking.reuse(self._known.links_between(self._joined))
        return self._begin("admitting", requests.admit_peers(self._joined), self._link)

    def _link(self) -> list[Action]:
        asked = self._answers.linking.next_round()
        return self._begin("linking", asked, self._link) if asked else self._plan()

    def _plan(self) -> list[Action]:
        profiles = self._answers.linked_profiles()
        self.record.plan = self.job.make_plan([profiles[device] for device in self.job.devices])
        if self.job.only_plan or self.job.continuation:
            return self._planned()
        caches = requests.open_caches(self.job, self._catalogue, self._answers.profiles)
        return self._begin("open_caches", caches, self._planned)

    def _planned(self) -> list[Action]:
        """Assigns shards: how many, the plan says; which, what is cached where."""
        self._filling.assign_shards(self._answers.held)
        then = self._collect() if self.job.only_plan else self._next_fill()
        return [Record(event="plan_made"), *then]

    def _next_fill(self) -> list[Action]:
        """Turns to the next data set; after the last one, to the adapter."""
        which = self._filling.which
        if which is None:
            return self._deploy(self._set_up) if self.job.continuation else self._set_up()
        work = self._filling.compare(which, self.plan, self._answers.held)
        fill = functools.partial(self._fill, which, work)
        if work.computed and not self._deployed:
            self._deployed = True
            return self._deploy(fill)
        return fill()

    def _deploy(self, then: Callable[[], list[Action]]) -> list[Action]:
        return self._begin("deploying", requests.stages(self.plan), then)

    def _fill(self, which: m.SampleSet, work: Work) -> list[Action]:
        fill = self._filling.begin(which, work, self.plan, self._now)
        self.phase, self._awaited = "filling", {}
        actions = self._count_for("fill" if which == "train" else "eval")
        if which == "train":
            fields = {"samples": fill.samples, "to_compute": fill.computed}
            actions.append(Record(event="fill_started", fields=fields))
        return actions + self._advance_fill(which)

    def _advance_fill(self, which: m.SampleSet) -> list[Action]:
        return self._commit_caches(which) if self._filling.done else [*self._filling.start()]

    def _commit_caches(self, which: m.SampleSet) -> list[Action]:
        owned = requests.own_samples(self.job, self.plan, which)
        for device in owned:
            needed = self._catalogue.needed_by(self.plan, device, which)
            self._answers.held[device] = self._answers.held[device] | needed
        return self._begin("commit_cache", owned, self._committed)

    def _committed(self) -> list[Action]:
        which, fill = self._filling.finish(self._now)
        if which != "train":
            return self._next_fill()
        fields = {"computed": fill.computed, "reused": fill.reused, "seconds": fill.seconds}
        return [Record(event="fill_finished", fields=fields), *self._next_fill()]

    def _set_up(self) -> list[Action]:
        set_up = requests.set_up_training(self.job, self.plan)
        then = self._set_up_generation if self.job.continuation else self._evaluate_before
        begin = self._begin("setting up", set_up, then)
        return [*self._count_for("eval"), *begin]

    def _set_up_generation(self) -> list[Action]:
        generation = self._generation = Generation(self.job, self.plan, self._now)
        self.record.generation = generation.record

        def start() -> list[Action]:
            self.phase = "generating"
            return [*generation.start()]

        return self._begin("setting up", generation.set_up(), start)

    def _on_next_tokens(self, device: DeviceId, message: m.NextTokens) -> list[Action]:
        generation = self._generation
        if generation is None:
            logger.warning("%s sent tokens that nobody asked for", device)
            return []
        sends = generation.chosen(device, message, self._now)
        if not generation.done:
            return [*sends]
        fields = {"tokens": generation.record.written, "seconds": generation.record.seconds}
        return [*sends, Record(event="generation_finished", fields=fields), *self._collect()]

    def _evaluate_before(self) -> list[Action]:
        if not self.job.evaluate_before:
            return self._next_epoch()

        def then() -> list[Action]:
            self.record.outputs_before = self._answers.outputs
            return self._next_epoch()

        return self._evaluate(then)

    def _evaluate(self, then: Callable[[], list[Action]]) -> list[Action]:
        table = self.job.tables.get("eval")
        if table is None:
            return then()
        self._answers.expect_outputs()
        return self._begin("evaluating", requests.evaluate(table, self.plan), then)

    def _next_epoch(self) -> list[Action]:
        if self._epoch >= self.job.options.epochs:
            return [*self._count_for("eval"), *self._evaluate_after()]
        self._epoch += 1
        self.record.epochs.append(EpochRecord(epoch=self._epoch, began=self._now))
        asked = requests.train_epoch(self.plan, self._epoch)
        begin = self._begin("training", asked, self._epoch_finished)
        return [*self._count_for("train"), *begin]

    def _epoch_finished(self) -> list[Action]:
        epoch = self.record.epochs[-1]
        epoch.seconds = self._now - epoch.began
        keeper = self.plan.owners[0].device
        begin = self._begin("training", {keeper: m.SendState()}, self._checkpointed)
        fields = {"epoch": epoch.epoch, "train_loss": epoch.train_loss, "seconds": epoch.seconds}
        return [Record(event="epoch_finished", fields=fields), *begin]

    def _checkpointed(self) -> list[Action]:
        return [
            SaveCheckpoint(epoch=self._epoch, state=self.record.state),
            Record(event="checkpoint", fields={"epoch": self._epoch}),
            *self._next_epoch(),
        ]

    def _evaluate_after(self) -> list[Action]:
        def then() -> list[Action]:
            self.record.outputs_after = self._answers.outputs
            return self._collect()

        return self._evaluate(then) if self.job.options.epochs else self._collect()

    def _collect(self) -> list[Action]:
        self._usage_due.update(self.job.devices)
        asked = dict.fromkeys(self.job.devices, m.BeginPhase(phase="eval"))
        return self._begin("collecting", asked, self._finish)

    def _finish(self) -> list[Action]:
        self.phase = "finished"
        shutdown = [Send(device=device, message=m.Shutdown()) for device in self.job.devices]
        return [*shutdown, Record(event="finished"), Finish()]

    # ---- messages

    def _on_lost(self, event: Lost) -> list[Action]:
        if event.device not in self.job.devices:
            return []
        self._joined.pop(event.device, None)
        self.phase = "failed"
        return lose(event, self.job, self._joined, planned=self.record.plan is not None)

    def _on_cloned(self, event: Cloned) -> list[Action]:
        if event.device not in self.job.devices:
            return []
        return self._fail(explain_clone(event.device))

    def _fail(self, error: UserError) -> list[Action]:
        self.phase = "failed"
        return stop(error, self.job, self._joined)

    def _on_message(self, device: DeviceId, message: m.Message) -> list[Action]:
        if device not in self._joined:
            logger.warning("%s spoke without having joined", device)
            return []
        match message:
            case m.Heartbeat() | m.Relief():
                self.record.observe(device, message)
                return []
            case m.Failed():
                return self._fail(explain_failure(device, message))
            case m.Notice():
                fields = {"device": device, "text": message.text}
                first = self.record.devices[device].take_notice(message.text)
                return [Record(event="notice", fields=fields)] if first else []
            case m.BatchServed() | m.Progress():
                self.record.observe(device, message)
                return [*self._filling.observe(device, message)]
            case m.Stored():
                which = self._filling.which
                if which is None or not self._filling.stored(device, message):
                    logger.warning("%s stored what nobody waits for", device)
                    return []
                return self._advance_fill(which)
            case m.NextTokens():
                return self._on_next_tokens(device, message)
            case m.Usage():
                return self._on_usage(device, message)
            case _:
                return self._answered(device, message)

    def _on_usage(self, device: DeviceId, message: m.Usage) -> list[Action]:
        """Answers come in the order of the requests, so the one to the last is final."""
        if not self._usage_due[device]:
            logger.warning("%s sent Usage that nobody asked for", device)
            return []
        self._usage_due[device] -= 1
        self.record.observe(device, message)
        final = self.phase == "collecting" and not self._usage_due[device]
        return self._answered(device, message) if final else []
