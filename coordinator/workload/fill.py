"""Fills caches with one data set, under one plan. Pure: no sockets, no clock."""

import collections
from collections.abc import Callable, Mapping, Set

from coordinator.planner.dispatch import Router, window
from coordinator.planner.problem.build import micro_batches
from coordinator.planner.problem.calibrate import calibrated, with_every_block
from coordinator.protocol.actions import Record, Send
from coordinator.protocol.job import Job
from coordinator.samples.samples import Catalogue, Work
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import BatchServed, RunBatch, SampleSet, Stored
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .leases import LeaseBook, WorkItem
from .stragglers import Pace, Straggler, compute_seconds
from .work_items import make_items


class Dealer:
    """Deals micro-batches to the devices of a plan, and adapts their shares to their pace."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        profiles: Mapping[DeviceId, DeviceProfile],
        seen: Callable[[DeviceId, float, float], None] = lambda *_: None,
    ) -> None:
        """``profiles`` are those that the plan was made from.

        ``seen`` is told of every micro-batch: who served it, its seconds, and how many the
        device's own measurements say, contention apart.
        """
        self._seen = seen
        self.router = Router(plan)
        self._job, self._plan, self._measured = job, plan, profiles
        self._pace = Pace(plan)
        self._complete: dict[DeviceId, DeviceProfile] = {}
        self._stragglers: set[DeviceId] = set()

    def served(self, device: DeviceId, message: BatchServed, item: WorkItem) -> list[Record]:
        """Compares a device's pace with the plan's, and shares its stage anew where it is off."""
        stage = self._plan.stage_of(device)
        if stage is None or self._plan.stages.index(stage) != message.stage or not item.longest:
            return []
        if device not in self._complete:
            measured = self._measured.get(device)
            if measured is None:
                return []
            self._complete[device] = with_every_block(self._job.manifest, measured)
        profile = self._complete[device]
        own, predicted_seconds = (
            compute_seconds(self._job.manifest, each, stage, item.samples, item.longest)
            for each in (profile, calibrated(profile))
        )
        self._seen(device, message.seconds, own)
        straggler = self._pace.served(
            message.stage,
            device,
            seconds=message.seconds,
            predicted_seconds=predicted_seconds,
            handling=_handling(self._plan, device),
        )
        return self._react(straggler) if straggler else []

    def _react(self, straggler: Straggler) -> list[Record]:
        stage, factor = straggler.stage, round(straggler.factor, 3)
        fields = {"device": straggler.device, "stage": stage, "factor": factor}
        if straggler.shares is not None:
            self.router.share(stage, straggler.shares)
            shares = {device: round(share, 4) for device, share in straggler.shares.items()}
            return [Record(event="rebalanced", fields={**fields, "shares": shares})]
        if straggler.device in self._stragglers:
            return []
        self._stragglers.add(straggler.device)
        return [Record(event="device_off_pace", fields=fields)]


class Fill:
    """The fill of one data set under one plan.

    Attributes:
        which: the data set.
        work: what is moved and computed.
        for_now: owners without room on the disk hold it in memory.
        items: to be sent, by number.
    """

    def __init__(
        self,
        job: Job,
        catalogue: Catalogue,
        which: SampleSet,
        work: Work,
        *,
        plan: Plan,
        dealer: Dealer,
        first_number: int,
        for_now: bool = False,
    ) -> None:
        """Makes the work items, whose numbers begin with ``first_number``."""
        self.which, self.work, self.for_now = which, work, for_now
        layers, size = job.config.layers, plan.micro_batch_size
        batches = micro_batches(job.tables, job.manifest, size, which, work.lines)
        items = make_items(
            catalogue,
            which,
            work,
            layers=layers,
            router=dealer.router,
            batches=batches,
            first_number=first_number,
        )
        self.items = {item.number: item for item in items}
        self._leases = LeaseBook(items, layers=layers, window=window(plan))
        self._routes: dict[int, tuple[DeviceId, ...]] = {}
        self._stages_done: collections.Counter[int] = collections.Counter()

    @property
    def done(self) -> bool:
        """Every owner has stored its samples."""
        return self._leases.done

    @property
    def stored(self) -> int:
        """Samples that are stored by now."""
        return self._leases.stored

    @property
    def total(self) -> int:
        """Samples that are to be stored."""
        return self._leases.total

    def start(self, without_room: Set[DeviceId] = frozenset()) -> list[tuple[WorkItem, Send]]:
        """Items that go out now; what only devices ``without_room`` would store does not."""
        started = [(item, item.send()) for item in self._leases.start(without_room)]
        for item, send in started:
            batch = send.message.batch if isinstance(send.message, RunBatch) else None
            self._routes[item.number] = batch.route if batch is not None else (send.device,)
        return started

    def served(self, message: BatchServed) -> bool:
        """Takes down that a stage has done its part of a micro-batch; False if that is no news."""
        done = self._stages_done[message.number]
        if message.number not in self._routes or message.stage < done:
            return False
        self._stages_done[message.number] = message.stage + 1
        return True

    def sent(self, source: DeviceId, number: int) -> None:
        """Takes down that a source has sent what it was asked to move."""
        if self._routes.get(number) == (source,):
            self._stages_done[number] = 1

    def late(self) -> DeviceId | None:
        """Names who has had the oldest item for longest: a stage, a source, or else an owner."""
        for item, owners in self._leases.unstored():
            route, done = self._routes[item.number], self._stages_done[item.number]
            return route[done] if done < len(route) else owners[0]
        return None

    def take(self, device: DeviceId, message: Stored) -> bool:
        """Ticks off what an owner has stored; False if nobody waits for it."""
        return self._leases.record(device, message)


def _handling(plan: Plan, device: DeviceId) -> float:
    """Computes the planned time for handling data, as a fraction of that for computing."""
    predicted = plan.predicted.devices.get(device) if plan.predicted else None
    parts = predicted.fill_parts if predicted else {}
    compute = parts.get("compute", 0.0)
    return parts.get("handling", 0.0) / compute if compute > 0 else 0.0
