"""Fills caches with one data set after the other. Pure: no sockets, no clock."""

from collections.abc import Mapping

from coordinator.planner.dispatch import Router, window
from coordinator.planner.problem.build import micro_batch_costs
from coordinator.planner.problem.calibrate import calibrated_profile
from coordinator.protocol.actions import Record, Send
from coordinator.protocol.job import Job
from coordinator.protocol.record import FillRecord, SessionRecord
from coordinator.samples.samples import Catalogue, Work, plan_work
from coordinator.samples.shard_assignment import assign_shards
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import BatchServed, Message, SampleSet, Stored
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .leases import LeaseBook
from .stragglers import Pace, Straggler, compute_seconds
from .work_items import make_items


class Filling:
    """Turns to the job's data sets one by one; keeps the books of the one under way."""

    def __init__(self, job: Job, catalogue: Catalogue, record: SessionRecord) -> None:
        self._job, self._catalogue, self._record = job, catalogue, record
        self._waiting = [] if job.continuation else list(job.tables)
        self._leases: LeaseBook | None = None
        self._item_number = 0
        self._plan: Plan | None = None
        self._shapes: dict[int, tuple[int, Mapping[Stream, int]]] = {}
        self._stragglers: set[DeviceId] = set()
        self._profiles: dict[DeviceId, DeviceProfile] = {}

    @property
    def which(self) -> SampleSet | None:
        """The data set under way; None after the last one."""
        return self._waiting[0] if self._waiting else None

    @property
    def done(self) -> bool:
        """Every owner has stored its samples of the data set under way."""
        return self._leases is not None and self._leases.done

    def assign_shards(self, held: Mapping[DeviceId, Array]) -> None:
        """Gives owners the shards that they have cached, as many as the plan says."""
        if held and self._record.plan is not None:
            self._record.plan = assign_shards(self._catalogue, self._record.plan, held)

    def compare(self, which: SampleSet, plan: Plan, held: Mapping[DeviceId, Array]) -> Work:
        """Lists the work for a data set, given the samples that devices hold."""
        options = self._job.options
        return plan_work(
            self._catalogue,
            which,
            plan=plan,
            held=held,
            order=self._job.tables[which].fill_order(options.batch_size, options.seed),
        )

    def begin(self, which: SampleSet, work: Work, plan: Plan, now: float) -> FillRecord:
        """Makes the items of the fill that begins at time ``now``."""
        if plan is not self._plan:
            self._plan, self._router, self._pace = plan, Router(plan), Pace(plan)
        layers, size = self._job.config.layers, plan.micro_batch_size
        costs = micro_batch_costs(self._job.tables, self._job.manifest, size)
        items = make_items(
            self._catalogue,
            which,
            work,
            layers=layers,
            router=self._router,
            micro_batch_size=size,
            costs=costs[which],
            first_number=self._item_number,
        )
        self._item_number += len(items)
        self._shapes = {item.number: (item.samples, item.longest) for item in items}
        self._leases = LeaseBook(items, layers=layers, window=window(plan))
        self._record.stored, self._record.to_store = 0, self._leases.total
        self._record.fills[which] = FillRecord(
            began=now,
            samples=work.distinct,
            computed=work.computed,
            tokens=int(self._job.tables[which].samples.lengths[work.lines].sum()),
        )
        return self._record.fills[which]

    def start(self) -> list[Send]:
        """Items that may go out now."""
        return [item.send() for item in self._leases.start()] if self._leases else []

    def stored(self, device: DeviceId, message: Stored) -> bool:
        """Ticks off what an owner has stored; False if nobody waits for it."""
        if self._leases is None or not self._leases.record(device, message):
            return False
        self._record.stored = self._leases.stored
        return True

    def observe(self, device: DeviceId, message: Message) -> list[Record]:
        """Compares a device's pace with the plan's, and shares its stage anew where it is off."""
        if self._plan is None or not isinstance(message, BatchServed):
            return []
        stage, shape = self._plan.stage_of(device), self._shapes.get(message.number)
        if stage is None or shape is None or self._plan.stages.index(stage) != message.stage:
            return []
        measured, (samples, longest) = self._record.devices[device].profile, shape
        if measured is None or not longest:
            return []
        if device not in self._profiles:  # as the plan was made from it
            self._profiles[device] = calibrated_profile(self._job.manifest, measured)
        profile = self._profiles[device]
        straggler = self._pace.served(
            message.stage,
            device,
            seconds=message.seconds,
            predicted_seconds=compute_seconds(self._job.manifest, profile, stage, samples, longest),
            handling=_handling(self._plan, device),
        )
        return self._react(straggler) if straggler else []

    def _react(self, straggler: Straggler) -> list[Record]:
        stage, factor = straggler.stage, round(straggler.factor, 3)
        fields = {"device": straggler.device, "stage": stage, "factor": factor}
        if straggler.shares is not None:
            self._router.share(stage, straggler.shares)
            shares = {device: round(share, 4) for device, share in straggler.shares.items()}
            return [Record(event="rebalanced", fields={**fields, "shares": shares})]
        if straggler.device in self._stragglers:
            return []
        self._stragglers.add(straggler.device)
        return [Record(event="device_off_pace", fields=fields)]

    def finish(self, now: float) -> tuple[SampleSet, FillRecord]:
        """Ends the fill under way at time ``now``; the next data set is up."""
        which = self._waiting.pop(0)
        fill = self._record.fills[which]
        fill.seconds = now - fill.began
        return which, fill


def _handling(plan: Plan, device: DeviceId) -> float:
    """Computes the planned time for handling data, as a fraction of that for computing."""
    predicted = plan.predicted.devices.get(device) if plan.predicted else None
    parts = predicted.fill_parts if predicted else {}
    compute = parts.get("compute", 0.0)
    return parts.get("handling", 0.0) / compute if compute > 0 else 0.0
