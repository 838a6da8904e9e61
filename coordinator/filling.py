"""The fill of one data set after the other: what to compute, what is under way, what is done.

Pure: no sockets, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import SampleSet, Stored
from edge_runtime.contract.plan import Plan

from .actions import Send
from .errands import make_errands
from .job import Job
from .leases import LeaseBook, Router
from .ownership import Catalogue, Work, plan_work
from .progress import FillRecord, SessionRecord

Array: TypeAlias = np.ndarray[Any, Any]


class Filling:
    """Turns to the job's data sets one by one; keeps the books of the one under way."""

    def __init__(self, job: Job, catalogue: Catalogue, record: SessionRecord) -> None:
        self._job, self._catalogue, self._record = job, catalogue, record
        self._waiting = [] if job.continuation else list(job.tables)
        self._leases: LeaseBook | None = None
        self._errand_number = 0

    @property
    def which(self) -> SampleSet | None:
        """The data set under way; None after the last one."""
        return self._waiting[0] if self._waiting else None

    @property
    def done(self) -> bool:
        """Every owner has stored its samples of the data set under way."""
        return self._leases is not None and self._leases.done

    def compare(self, which: SampleSet, plan: Plan, held: Mapping[DeviceId, Array]) -> Work:
        """What is to be done for a data set, given what devices hold of it."""
        options = self._job.options
        return plan_work(
            self._catalogue,
            which,
            plan=plan,
            held=held,
            order=self._job.tables[which].fill_order(options.batch_size, options.seed),
        )

    def begin(self, which: SampleSet, work: Work, plan: Plan, now: float) -> FillRecord:
        """Makes the errands of the fill that begins at time ``now``."""
        layers = self._job.config.layers
        errands = make_errands(
            self._catalogue,
            which,
            work,
            layers=layers,
            router=Router(plan),
            micro_batch_size=plan.micro_batch_size,
            first_number=self._errand_number,
        )
        self._errand_number += len(errands)
        self._leases = LeaseBook(errands, layers=layers, window=2 * len(plan.stages) + 1)
        self._record.stored, self._record.to_store = 0, self._leases.total
        self._record.fills[which] = FillRecord(
            began=now,
            samples=work.distinct,
            computed=work.computed,
            tokens=int(self._job.tables[which].samples.lengths[work.lines].sum()),
        )
        return self._record.fills[which]

    def start(self) -> list[Send]:
        """Errands that may go out now."""
        if self._leases is None:
            return []
        started = self._leases.start()
        return [Send(device=errand.device, message=errand.message) for errand in started]

    def stored(self, device: DeviceId, message: Stored) -> bool:
        """Ticks off what an owner has stored; False if nobody waits for it."""
        if self._leases is None or not self._leases.record(device, message):
            return False
        self._record.stored = self._leases.stored
        return True

    def finish(self, now: float) -> tuple[SampleSet, FillRecord]:
        """Ends the fill under way at time ``now``; the next data set is up."""
        which = self._waiting.pop(0)
        fill = self._record.fills[which]
        fill.seconds = now - fill.began
        return which, fill
