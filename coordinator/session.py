"""The session: what happens in which order, as a state machine without I/O or clock.

Theory of operation. Each phase sends requests to some devices and waits until all of
them have answered; then the next phase begins. Phases with nothing to do are passed::

    gathering    every expected device said hello
    profiling    every device measured itself                     -> the plan is made
    locating     trainers opened their caches and said what they hold
    deploying    data sockets admit the peers; stages are loaded, if anything is to compute
    filling      moves and micro-batches are leased until every owner has stored its samples
    taking       owners made the set durable and lack nothing
                 (deploying to taking are passed for training, then for evaluation samples)
    setting up   trainers made the adapter
    evaluating   outputs before, and after, training
    training     one epoch after the other, a checkpoint after each
    collecting   final usage of every device
    finished

Time enters with each event. Every handler returns actions; :mod:`coordinator.server`
carries them out.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import StoppedError, UserError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import (
    BatchServed,
    BeginPhase,
    CacheDtype,
    CacheStatus,
    EpochDone,
    Evaluate,
    Failed,
    Heartbeat,
    Message,
    OpenCache,
    Outputs,
    OwnSamples,
    Peer,
    Peers,
    PeersReady,
    Phase,
    ProfileDone,
    Progress,
    SampleSet,
    SamplesReady,
    SendState,
    SetUpTraining,
    Shutdown,
    StageReady,
    Stored,
    TrainEpoch,
    TrainerState,
    TrainingReady,
    Usage,
    Welcome,
)
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .actions import (
    Action,
    Event,
    Fail,
    Finish,
    Joined,
    Lost,
    Received,
    Record,
    SaveCheckpoint,
    Send,
    SendProfileRequest,
    SendStage,
)
from .errands import make_errands
from .leases import LeaseBook, Router
from .ownership import Catalogue, SampleTable, Work, plan_work
from .progress import DeviceRecord, EpochRecord, FillRecord, SessionRecord

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """Everything that a session needs to know before it starts.

    Attributes:
        manifest: of the bundle.
        config: shape of the adapter.
        options: of the training; ``epochs`` is 0 for evaluation only.
        tables: training samples (absent for evaluation only) and evaluation samples.
        devices: who takes part.
        make_plan: from profiles to a plan; pure; raises InfeasibleError.
        cache_dtype: how states are cached.
        cache_quota_bytes: limit of each device's cache.
        state: trainer state or adapter weights to start from; empty for a new adapter.
        epochs_done: epochs that ``state`` has behind it.
        evaluate_before: compute outputs before training too.
        heartbeat_seconds: how often devices are to be heard.
        local: the devices run on this machine, so their process ids mean something here.
        only_plan: end once the plan is made.
    """

    manifest: Manifest
    config: AdapterConfig
    options: TrainingOptions
    tables: Mapping[SampleSet, SampleTable]
    devices: tuple[DeviceId, ...]
    make_plan: Callable[[Sequence[DeviceProfile]], Plan]
    cache_dtype: CacheDtype = "fp16"
    cache_quota_bytes: int | None = None
    state: bytes = b""
    epochs_done: int = 0
    evaluate_before: bool = True
    heartbeat_seconds: float = 5.0
    local: bool = False
    only_plan: bool = False


class Session:
    """One fine-tuning, evaluation or prediction from the first hello to the last byte."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._catalogue = Catalogue.make(job.tables)
        self._phase = "gathering"
        self._awaited: set[DeviceId] = set(job.devices)
        self._then: Callable[[], list[Action]] = self._profile
        self._answer: type[Message] = Message
        self._now = 0.0
        self._joined: dict[DeviceId, Joined] = {}
        self._profiles: dict[DeviceId, DeviceProfile] = {}
        self._held: dict[DeviceId, Array] = {}
        self._to_fill: list[SampleSet] = []
        self._work: dict[SampleSet, Work] = {}
        self._deployed = False
        self._leases: LeaseBook | None = None
        self._errand_number = 0
        self._epoch = job.epochs_done
        self._outputs: Array = np.zeros((0, 0), np.float32)
        self.record = SessionRecord()

    @property
    def phase(self) -> str:
        """Where the session stands; see the module's docstring."""
        return self._phase

    @property
    def adapter_config(self) -> AdapterConfig:
        """Shape of the adapter."""
        return self._job.config

    @property
    def tables(self) -> Mapping[SampleSet, SampleTable]:
        """The samples of each data set."""
        return self._job.tables

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self._job.options.epochs

    @property
    def cache_dtype(self) -> CacheDtype:
        """How states are cached."""
        return self._job.cache_dtype

    @property
    def plan(self) -> Plan:
        """The plan, once profiling is over."""
        if self.record.plan is None:
            raise RuntimeError("the plan is not made yet")
        return self.record.plan

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes one event in, at time ``now`` (seconds, any epoch, never falling)."""
        self._now = now
        if self._phase in ("finished", "failed"):
            return []
        try:
            match event:
                case Joined():
                    return self._on_joined(event)
                case Lost():
                    return self._on_lost(event)
                case Received():
                    return self._on_message(event.device, event.message)
        except UserError as error:
            return self._fail(error)

    # ---- phases

    def _begin(
        self,
        phase: str,
        requests: Mapping[DeviceId, Message | Action],
        answer: type[Message],
        then: Callable[[], list[Action]],
    ) -> list[Action]:
        """Sends ``requests``, then waits for one ``answer`` of each device."""
        logger.info("phase %s", phase)
        self._phase, self._answer, self._then = phase, answer, then
        self._awaited = set(requests)
        actions = [
            Send(device=device, message=request) if isinstance(request, Message) else request
            for device, request in requests.items()
        ]
        return actions if requests else then()

    def _answered(self, device: DeviceId, message: Message) -> list[Action]:
        """Ticks off an answer; the last one starts the next phase."""
        if type(message) is not self._answer or device not in self._awaited:
            logger.warning("%s sent %s out of turn", device, type(message).__name__)
            return []
        self._awaited.discard(device)
        return [] if self._awaited else self._then()

    def _count_for(self, phase: Phase) -> list[Action]:
        return [
            Send(device=device, message=BeginPhase(phase=phase)) for device in self._job.devices
        ]

    def _on_joined(self, event: Joined) -> list[Action]:
        if event.device not in self._job.devices:
            return []
        self._joined[event.device] = event
        self.record.devices[event.device] = DeviceRecord(roles=event.hello.roles)
        welcome = Welcome(heartbeat_seconds=self._job.heartbeat_seconds)
        fields: dict[str, Any] = {"device": event.device}
        if self._job.local:
            fields["pid"] = event.hello.process_id
        actions: list[Action] = [
            Send(device=event.device, message=welcome),
            Record(event="device_joined", fields=fields),
        ]
        self._awaited.discard(event.device)
        if self._phase == "gathering" and not self._awaited:
            actions += self._then()
        return actions

    def _profile(self) -> list[Action]:
        requests = {device: SendProfileRequest(device=device) for device in self._job.devices}
        begin = self._begin("profiling", requests, ProfileDone, self._make_plan)
        return [*self._count_for("profile"), *begin]

    def _make_plan(self) -> list[Action]:
        profiles = [self._profiles[device] for device in self._job.devices]
        self.record.plan = self._job.make_plan(profiles)
        then = self._collect() if self._job.only_plan else self._locate()
        return [Record(event="plan_made"), *then]

    def _locate(self) -> list[Action]:
        request = OpenCache(
            backbone_digest=self._job.manifest.backbone_digest,
            dtype=self._job.cache_dtype,
            hidden_size=self._job.manifest.hidden_size,
            quota_bytes=self._job.cache_quota_bytes,
            layers=self._job.config.layers,
            keys=self._catalogue.keys,
        )
        trainers = [
            device for device, profile in self._profiles.items() if "trainer" in profile.roles
        ]
        self._to_fill = list(self._job.tables)
        return self._begin(
            "locating", dict.fromkeys(trainers, request), CacheStatus, self._admit_peers
        )

    def _admit_peers(self) -> list[Action]:
        peers = {
            device: Peer(
                device=device,
                public_key=joined.public_key,
                address=joined.hello.data_address,
            )
            for device, joined in self._joined.items()
        }
        requests = {
            device: Peers(peers=tuple(peer for name, peer in peers.items() if name != device))
            for device in peers
        }
        return self._begin("deploying", requests, PeersReady, self._next_fill)

    def _next_fill(self) -> list[Action]:
        """Turns to the next data set; after the last one, to the adapter."""
        if not self._to_fill:
            return self._set_up()
        which = self._to_fill[0]
        table = self._job.tables[which]
        options = self._job.options
        self._work[which] = plan_work(
            self._catalogue,
            which,
            plan=self.plan,
            held=self._held,
            order=table.fill_order(options.batch_size, options.seed),
        )
        if self._work[which].computed and not self._deployed:
            self._deployed = True
            return self._begin("deploying", self._stage_requests(), StageReady, self._fill)
        return self._fill()

    def _stage_requests(self) -> dict[DeviceId, Action]:
        return {
            member.device: SendStage(device=member.device, first=stage.first, last=stage.last)
            for stage in self.plan.stages
            for member in stage.devices
        }

    def _fill(self) -> list[Action]:
        which = self._to_fill[0]
        errands = make_errands(
            self._catalogue,
            which,
            self._work[which],
            layers=self._job.config.layers,
            router=Router(self.plan),
            micro_batch_size=self.plan.micro_batch_size,
            first_number=self._errand_number,
        )
        self._errand_number += len(errands)
        window = 2 * len(self.plan.stages) + 1
        self._leases = LeaseBook(errands, layers=self._job.config.layers, window=window)
        self.record.stored, self.record.to_store = 0, self._leases.total
        self._phase, self._awaited = "filling", set()
        phase: Phase = "fill" if which == "train" else "eval"
        work = self._work[which]
        self.record.fills[which] = FillRecord(
            began=self._now,
            samples=work.distinct,
            computed=work.computed,
            tokens=int(self._job.tables[which].samples.lengths[work.lines].sum()),
        )
        actions = self._count_for(phase)
        if which == "train":
            fields = {"samples": work.distinct, "to_compute": work.computed}
            actions.append(Record(event="fill_started", fields=fields))
        return actions + self._advance_fill()

    def _advance_fill(self) -> list[Action]:
        if self._leases is None:
            return []
        if self._leases.done:
            return self._take_samples()
        return [
            Send(device=errand.device, message=errand.message) for errand in self._leases.start()
        ]

    def _take_samples(self) -> list[Action]:
        which = self._to_fill[0]
        table = self._job.tables[which]
        requests: dict[DeviceId, Message | Action] = {}
        for owner in self.plan.owners:
            lines = table.owned_by(self.plan, owner.device)
            if which == "eval" and not len(lines):
                continue
            requests[owner.device] = OwnSamples(
                which=which,
                total=len(table),
                indices=lines.astype(np.int32),
                keys=table.samples.keys[lines],
                ranks=table.ranks[lines],
                lengths=table.samples.lengths[lines].astype(np.int32),
                second_starts=table.samples.second_starts[lines].astype(np.int32),
                targets=table.targets[lines],
            )
            held = self._held[owner.device]
            self._held[owner.device] = held | self._catalogue.needed_by(
                self.plan, owner.device, which
            )
        return self._begin("taking", requests, SamplesReady, self._taken)

    def _taken(self) -> list[Action]:
        which = self._to_fill.pop(0)
        fill = self.record.fills[which]
        fill.seconds = self._now - fill.began
        actions: list[Action] = []
        if which == "train":
            fields = {"computed": fill.computed, "reused": fill.reused, "seconds": fill.seconds}
            actions.append(Record(event="fill_finished", fields=fields))
        return actions + self._next_fill()

    def _set_up(self) -> list[Action]:
        job = self._job
        train = job.tables.get("train")
        steps = steps_per_epoch(len(train), job.options.batch_size) if train is not None else 0
        trainers = tuple(owner.device for owner in self.plan.owners)
        request = SetUpTraining(
            config=job.config,
            options=job.options,
            trainers=trainers,
            total_steps=steps * job.options.epochs,
            state=np.frombuffer(job.state, np.uint8),
        )
        begin = self._begin(
            "setting up", dict.fromkeys(trainers, request), TrainingReady, self._evaluate_before
        )
        return [*self._count_for("eval"), *begin]

    def _evaluate_before(self) -> list[Action]:
        if not self._job.evaluate_before:
            return self._next_epoch()

        def then() -> list[Action]:
            self.record.outputs_before = self._outputs
            return self._next_epoch()

        return self._evaluate(then)

    def _evaluate(self, then: Callable[[], list[Action]]) -> list[Action]:
        table = self._job.tables.get("eval")
        if table is None:
            return then()
        self._outputs = np.full((len(table), self._job.config.num_outputs), np.nan, np.float32)
        owners = [
            owner.device
            for owner in self.plan.owners
            if len(table.owned_by(self.plan, owner.device))
        ]
        return self._begin("evaluating", dict.fromkeys(owners, Evaluate()), Outputs, then)

    def _next_epoch(self) -> list[Action]:
        if self._epoch >= self._job.options.epochs:
            return [*self._count_for("eval"), *self._evaluate_after()]
        self._epoch += 1
        self.record.epochs.append(EpochRecord(epoch=self._epoch, began=self._now))
        trainers = [owner.device for owner in self.plan.owners]
        request = TrainEpoch(epoch=self._epoch)
        begin = self._begin(
            "training", dict.fromkeys(trainers, request), EpochDone, self._epoch_finished
        )
        return [*self._count_for("train"), *begin]

    def _epoch_finished(self) -> list[Action]:
        epoch = self.record.epochs[-1]
        epoch.seconds = self._now - epoch.began
        fields = {"epoch": epoch.epoch, "train_loss": epoch.train_loss, "seconds": epoch.seconds}
        finished = Record(event="epoch_finished", fields=fields)
        keeper = self.plan.owners[0].device
        begin = self._begin("training", {keeper: SendState()}, TrainerState, self._next_epoch)
        return [finished, *begin]

    def _evaluate_after(self) -> list[Action]:
        def then() -> list[Action]:
            self.record.outputs_after = self._outputs
            return self._collect()

        return self._evaluate(then) if self._job.options.epochs else self._collect()

    def _collect(self) -> list[Action]:
        request = BeginPhase(phase="eval")
        return self._begin(
            "collecting", dict.fromkeys(self._job.devices, request), Usage, self._finish
        )

    def _finish(self) -> list[Action]:
        self._phase = "finished"
        shutdown = [Send(device=device, message=Shutdown()) for device in self._job.devices]
        return [*shutdown, Record(event="finished"), Finish()]

    # ---- messages

    def _on_lost(self, event: Lost) -> list[Action]:
        if event.device not in self._job.devices:
            return []
        fields = {"device": event.device, "reason": event.reason}
        error = StoppedError(
            f"{event.device} was lost: {event.reason}; "
            "run the same command again with --resume to go on"
        )
        return [Record(event="device_lost", fields=fields), *self._fail(error)]

    def _fail(self, error: UserError) -> list[Action]:
        self._phase = "failed"
        shutdown = [Send(device=device, message=Shutdown()) for device in self._joined]
        return [*shutdown, Fail(error=error)]

    def _on_message(self, device: DeviceId, message: Message) -> list[Action]:
        if device not in self._joined:
            logger.warning("%s spoke without having joined", device)
            return []
        actions: list[Action] = []
        match message:
            case Heartbeat():
                return []
            case Failed():
                return self._fail(StoppedError(f"{device}: {message.reason}"))
            case BatchServed() | Progress():
                self.record.observe(device, message)
                return []
            case Stored():
                if self._leases is None or not self._leases.record(device, message):
                    logger.warning("%s stored what nobody waits for", device)
                    return []
                self.record.stored = self._leases.stored
                return self._advance_fill()
            case Usage():
                self.record.devices[device].usage = message
                if self._phase != "collecting" or message.phase != "eval":
                    return []
            case TrainerState():
                actions = self._keep_state(message)
            case _:
                self._note(device, message)
        return actions + self._answered(device, message)

    def _keep_state(self, message: TrainerState) -> list[Action]:
        self.record.state = message.data.tobytes()
        return [
            SaveCheckpoint(epoch=self._epoch, state=self.record.state),
            Record(event="checkpoint", fields={"epoch": self._epoch}),
        ]

    def _note(self, device: DeviceId, message: Message) -> None:
        """Keeps what an answer says."""
        match message:
            case ProfileDone():
                self._profiles[device] = message.profile
                self.record.devices[device].profile = message.profile
            case CacheStatus():
                if message.held.shape != (len(self._catalogue.keys),):
                    raise StoppedError(f"{device}: answered for other samples than asked")
                self._held[device] = message.held.astype(bool)
            case StageReady():
                self.record.devices[device].received_weight_bytes = message.received_bytes
            case SamplesReady():
                self.record.devices[device].cache_bytes = message.cache_bytes
                self.record.devices[device].cache_samples = message.cache_samples
                if message.missing.size:
                    raise StoppedError(
                        f"{device}: {message.missing.size} samples did not stay in its cache"
                    )
            case TrainingReady():
                self.record.parameters = message.parameters
            case EpochDone():
                self.record.epochs[-1].add(message)
            case Outputs():
                self._keep_outputs(device, message)
            case _:
                pass

    def _keep_outputs(self, device: DeviceId, message: Outputs) -> None:
        indices = message.indices
        right_width = message.outputs.shape[1] == self._outputs.shape[1]
        inside = not indices.size or 0 <= indices.min() <= indices.max() < len(self._outputs)
        if not (right_width and inside):
            raise StoppedError(f"{device}: sent outputs for samples that do not exist")
        self._outputs[indices] = message.outputs
