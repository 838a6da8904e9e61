"""Keeps who takes part, and what is known of each device. Pure.

A member is *complete* when everything that a plan must know of it is measured; until then it is
*aside*: it is asked for that while the others work, and takes part from the next plan on.
"""

import collections
import dataclasses

from coordinator.protocol.events import Joined
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import DeviceProfile

MOST_STRIKES = 3
"""Times that a device may fail before the run goes on without it."""
MOST_BLAMES = 2
"""Wrong messages of a device before the run goes on without it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A trainer's adapter: updates behind it, and the sums of the epoch that it is in."""

    step: int
    sums: m.EpochSums


@dataclasses.dataclass(slots=True)
class Member:
    """Holds facts of a device that is here; None or empty where something is missing.

    Attributes:
        joined: its hello.
        profile: as measured.
        peers: who may connect to it, as it has confirmed.
        unreached: those of them that it could not connect to.
        cache_open: it has said what its cache holds.
        memory_bytes: of states that it can hold for now besides.
        without_room: its disk, or the quota, has no room for all of its samples.
        holding: number of the portion whose samples it holds for now.
        stage: blocks ``[first, last)`` that it has loaded.
        owned: shards whose samples it knows and has, by data set.
        replica: of the adapter, in this term.
        token_counts: how likely tokens are in its lines, (2, V) int64, in this term.
        in_group: it trains with the others of this term.
        generates: it is ready to continue prompts, in this term.
        counts: the phase that its CPU time counts for.
        collected: it has said what it has used in all.
        relief: why it wants its work to be taken away; empty if it does not.
        set_aside: it joined while a plan was in work and was not planned with yet.
    """

    joined: Joined
    profile: DeviceProfile | None = None
    peers: frozenset[m.Peer] | None = None
    unreached: frozenset[DeviceId] = frozenset()
    cache_open: bool = False
    memory_bytes: int = 0
    without_room: bool = False
    holding: int = 0
    stage: tuple[int, int] | None = None
    owned: dict[m.SampleSet, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    replica: Replica | None = None
    token_counts: Array | None = None
    in_group: bool = False
    generates: bool = False
    counts: m.Phase | None = None
    collected: bool = False
    relief: str = ""
    set_aside: bool = False

    def end_term(self) -> None:
        """Forgets what belongs to the plan that has ended."""
        self.replica, self.in_group, self.generates, self.token_counts = None, False, False, None

    def fail(self) -> None:
        """Forgets what a device that failed may not have any more."""
        self.end_term()
        self.cache_open, self.stage, self.counts = False, None, None
        self.owned.clear()


class Members:
    """Everybody who is here, and why others are not.

    Attributes:
        here: by device, in the order in which they joined.
        left: why those who were here are gone.
        asleep: those of them whose process may live on.
        quarantined: why those who may not come back are gone.
    """

    def __init__(self) -> None:
        self.here: dict[DeviceId, Member] = {}
        self.left: dict[DeviceId, str] = {}
        self.asleep: set[DeviceId] = set()
        self.quarantined: dict[DeviceId, str] = {}
        self._strikes: collections.Counter[DeviceId] = collections.Counter()
        self._blames: collections.Counter[DeviceId] = collections.Counter()
        self._accusers: dict[DeviceId, set[DeviceId]] = {}

    def join(self, joined: Joined, *, aside: bool) -> Member:
        """Admits a device."""
        self.left.pop(joined.device, None)
        self.asleep.discard(joined.device)
        member = self.here[joined.device] = Member(joined, set_aside=aside)
        return member

    def leave(self, device: DeviceId, reason: str, *, ended: bool) -> None:
        """Lets a device go; it may come back, by itself unless its process has ``ended``."""
        self.here.pop(device, None)
        self.left[device] = reason
        if not ended:
            self.asleep.add(device)

    def quarantine(self, device: DeviceId, reason: str) -> None:
        """Lets a device go for good."""
        self.here.pop(device, None)
        self.left.pop(device, None)
        self.asleep.discard(device)
        self.quarantined[device] = reason

    def strike(self, device: DeviceId) -> bool:
        """Counts a failure; True if it was one too many."""
        self._strikes[device] += 1
        return self._strikes[device] >= MOST_STRIKES

    def blame(self, device: DeviceId) -> bool:
        """Counts a wrong message that this side has seen; True if it was one too many."""
        self._blames[device] += 1
        return self._is_to_blame(device)

    def accuse(self, device: DeviceId, accuser: DeviceId) -> bool:
        """Counts a wrong message by the word of another; True if it was one too many.

        An accuser's word counts once.
        """
        self._accusers.setdefault(device, set()).add(accuser)
        return self._is_to_blame(device)

    def has_accused(self, device: DeviceId, accuser: DeviceId) -> bool:
        """True if ``accuser`` has named ``device`` before."""
        return accuser in self._accusers.get(device, ())

    def _is_to_blame(self, device: DeviceId) -> bool:
        return self._blames[device] + len(self._accusers.get(device, ())) >= MOST_BLAMES

    def planned_with(self) -> dict[DeviceId, Member]:
        """Those whom a plan can be made with: nobody waits for those who are aside."""
        return {device: member for device, member in self.here.items() if not member.set_aside}
