"""Everything that a session knows. Pure data, changed by :mod:`.facts` and the goals alone."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from coordinator.protocol.actions import Action, Record, Send
from coordinator.protocol.best_epoch import epochs_since_best
from coordinator.protocol.events import Joined
from coordinator.protocol.job import Job
from coordinator.protocol.record import SessionRecord
from coordinator.samples.samples import Catalogue
from coordinator.workload.fill import Dealer, Fill
from coordinator.workload.generation import Generation
from coordinator.workload.portions import Portion
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .experience import Experience
from .holdings import Holdings
from .link_schedule import BRIEF, THOROUGH, Linking
from .measurements import KnownDevices
from .members import Member, Members
from .questions import Questions
from .relayed import RelayedPairs

WAKE_SECONDS = 60.0
"""Within which a device that was silent may speak again, or one that came be measured."""

FORGOTTEN_EACH = 0.9
"""What is left, with each micro-batch or step, of the longest that one has taken."""

FIRST_SECONDS = 1.0
"""Predicted time for computing what the first portion after a loss lacks; each next one may take
twice as long, so that the changes between computing and training stay few."""

LANGUAGE_OUTPUTS = 3
"""Of a sample: summed loss, counted tokens, correctly predicted tokens."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A state of the trainers that the coordinator has.

    Attributes:
        data: bytes of a safetensors file; empty before the first update.
        step: updates that it has behind it.
        sums: of the epoch that it is in.
    """

    data: bytes
    step: int
    sums: m.EpochSums


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartDone:
    """Steps of a part of an epoch, as one trainer did them.

    Attributes:
        steps: how many.
        seconds: that they took.
        own_seconds: of these, without what the trainers do together.
    """

    steps: int
    seconds: float
    own_seconds: float


@dataclasses.dataclass(slots=True)
class Break:
    """A plan that has ended before its time, until work goes on under another."""

    reason: str
    device: str
    since: float
    computed_again: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A trainer has said that another sends what is wrong; others may say so, too."""

    accuser: DeviceId
    reason: str
    since: float


class State:
    """Holds members, plan, facts and progress of a session.

    Attributes:
        job: to be done.
        record: what was seen, for the report and the display.
        now: seconds, any epoch.
        began: time of the first event.
        term: of the plan that is in work, or is to be made; from 1.
        plan: None while there is none.
        assigned: the plan's shards have their owners, by what caches hold.
        gathered: devices that are absent are not waited for any more.
        profiles: those that the plan was made from, with links.
        budgets: seconds that devices are to measure themselves for, once that is decided.
        relayed: pairs of devices that cannot reach each other.
        filled: data sets of which every owner holds its samples, by what is known.
        fill: the one under way.
        experience: what devices did, against what they measured.
        saved: newest state of the trainers.
        lineage: names the group that trained up to here: a replica of another is not gone on with.
        setting: that a tuning has chosen; until then, and without one, the job's is trained.
        race_term: the term that the tuning under way has begun in, and ``race_sums`` the sums of
            the epochs that its settings have ended, by setting and epoch.
        raced: state of the best setting so far, of ``raced_parameters`` values.
        token_counts: how likely tokens are in all trainers' lines, (2, V) int64; None until it is
            known. With the first update it becomes a part of the trainers' state.
        target: update up to which the group is to train before its state is saved.
        training_begun: this session has applied updates, or is about to.
        steps: lines of every step of an epoch, which is named before.
        portion: what is trained on or evaluated before states are computed again, and
            ``portions`` how many there were.
        portion_seconds: predicted time that computing what the next portion lacks may take.
        outputs: (N, C) float64 of the evaluation lines in work, NaN where not known yet.
        step_seconds: pace of the last part of an epoch.
        part_began: when the part of the epoch in work began, and at which update.
        part_done: what trainers have said of their steps of that part.
        found_samples: whose candidates trainers have found in this session.
        epoch_ratio: time of whole epochs over what is predicted of them by what was learnt.
        set_up_seconds: the longest that a device took to make the adapter.
        fill_began: when the fill under way began; ``computed_before`` is what was computed then.
        fill_told: the end of the fill of training samples was written down.
        computed: (K,) bool, samples that the backbone has computed in this session.
        broken: set from the end of a plan until work goes on.
        waiting: when a wait for devices began, and ``waits_for`` what is lacking.
        collecting: everything is done but asking what it took.
        settled: nobody who is here has anything left to be measured aside.
        hopeless: devices that said they would fail again whatever happens.
        called_back: when a device that was given up was asked to join again.
        last_progress: when a micro-batch or a step was last known to be done.
        longest_seconds: that one has taken lately.
        awaited: by device, whom its training step waits for.
        suspicions: what one trainer has said of another in this term.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.record = job, SessionRecord(evaluated=dict(job.evaluated))
        self.catalogue = Catalogue.make(job.tables)
        self.now = self.began = 0.0
        self.term = 1
        self.plan: Plan | None = None
        self.assigned = self.gathered = False
        self.profiles: dict[DeviceId, DeviceProfile] = {}
        self.members, self.questions = Members(), Questions()
        self.linking = Linking(THOROUGH if job.measures_thoroughly else BRIEF)
        self.relayed = RelayedPairs()
        self.known = KnownDevices()
        self.budgets: dict[DeviceId, float] | None = None
        self.holdings = Holdings(len(self.catalogue.keys), job.config.layers)
        self.filled: set[m.SampleSet] = set()
        self.fill: Fill | None = None
        self.dealer: Dealer | None = None
        self.experience = Experience()
        self.item_number = 0
        self.computed: Array = np.zeros(len(self.catalogue.keys), bool)
        self.saved = SavedState(data=job.state, step=job.steps_done, sums=job.sums)
        self.lineage = job.run
        self.setting: m.Setting | None = None
        self.race_term, self.raced_parameters = 0, 0
        self.race_sums: dict[tuple[int, int], m.EpochSums] = {}
        self.raced: SavedState | None = None
        self.token_counts: Array | None = None
        self.target = job.steps_done
        self.step_seconds: float | None = None
        self.part_began: tuple[float, int] | None = None
        self.part_done: dict[DeviceId, PartDone] = {}
        self.found_samples = 0
        self.epoch_ratio, self.set_up_seconds = 1.0, 0.0
        self.fill_began, self.fill_told = 0.0, False
        self.computed_before = self.computed
        self.training_begun = False
        self.steps: tuple[int, Sequence[Array]] | None = None
        self.portion: Portion | None = None
        self.portions, self.portion_seconds = 0, FIRST_SECONDS
        self.outputs: Array | None = None
        self.generation: Generation | None = None
        self.broken: Break | None = None
        self.waiting: float | None = None
        self.waits_for = ""
        self.collecting = self.settled = False
        self.hopeless: set[DeviceId] = set()
        self.called_back: dict[DeviceId, float] = {}
        self.last_progress = self.longest_seconds = 0.0
        self.awaited: dict[DeviceId, frozenset[DeviceId]] = {}
        self.suspicions: dict[DeviceId, Suspicion] = {}
        self.out: list[Action] = []

    def do(self, *actions: Action) -> None:
        """Has the host carry actions out."""
        self.out += actions

    @property
    def joined(self) -> dict[DeviceId, Joined]:
        """Hellos of those who are here."""
        return {device: member.joined for device, member in self.members.here.items()}

    @property
    def alone(self) -> bool:
        """Nobody can go on without the only device that is here; others may still be coming."""
        others_come = not self.gathered and len(self.job.devices) > 1
        return len(self.members.here) == 1 and not others_come

    def progressed(self, device: DeviceId) -> None:
        """Takes down that work goes on, by the word of a device."""
        lately = FORGOTTEN_EACH * self.longest_seconds
        self.longest_seconds = max(lately, self.now - self.last_progress)
        self.last_progress = self.now
        self.awaited.pop(device, None)

    @property
    def patience_seconds(self) -> float | None:
        """How long to wait for devices; None for as long as it takes.

        Those that are on their way, or only asleep, have a moment in any case.
        """
        limit, members = self.job.wait_seconds, self.members
        coming = any(member.set_aside for member in members.here.values())
        if limit is None or not (coming or members.asleep):
            return limit
        return max(limit, WAKE_SECONDS)

    def explain_wait(self) -> str:
        """Says why the session cannot go on."""
        if self.broken is None:
            return self.waits_for
        return f"{self.broken.reason}; the others cannot go on: {self.waits_for}"

    def tell(self, device: DeviceId, message: m.Message) -> None:
        """Sends what is not answered, in this term."""
        self.out.append(Send(device=device, message=message, term=self.term))

    def note(self, event: str, **fields: object) -> None:
        """Writes an event down."""
        self.out.append(Record(event=event, fields=fields))

    def ordered(self, devices: dict[DeviceId, Member]) -> list[DeviceId]:
        """Devices in the order of the job."""
        return [device for device in self.job.devices if device in devices]

    @property
    def owners(self) -> tuple[DeviceId, ...]:
        """Owners of the plan's shards, in its order."""
        return tuple(owner.device for owner in self.plan.owners) if self.plan else ()

    @property
    def trains(self) -> bool:
        """Updates are left to be applied, and there is hope in them."""
        if self.setting is not None:
            return False
        return self.job.total_steps > self.saved.step and not self.stops_early

    @property
    def epochs_over(self) -> int:
        """Whole epochs that the saved state has behind it."""
        return self.saved.step // max(1, self.job.steps_per_epoch)

    @property
    def stops_early(self) -> bool:
        """No epoch was better for as many epochs as there is patience for."""
        if not self.job.patience or not self.job.evaluates_epochs:
            return False
        since = epochs_since_best(self.record.evaluated, up_to=self.epochs_over)
        return since is not None and since >= self.job.patience

    @property
    def epoch(self) -> int:
        """The epoch that the saved state is in, from 1; one more than there are at the end."""
        return self.epochs_over + 1

    def expected_outputs(self) -> Array:
        """Outputs of the evaluation in work; all are missing when it begins."""
        if self.outputs is not None:
            return self.outputs
        config, lines = self.job.config, len(self.job.tables["eval"])
        columns = LANGUAGE_OUTPUTS if config.generative else config.num_outputs
        self.outputs = np.full((lines, columns), np.nan)
        return self.outputs
