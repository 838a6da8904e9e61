"""Goals before a plan: devices are here, measured, and linked. Pure."""

from collections.abc import Collection, Mapping
from functools import partial

from coordinator.protocol.actions import SendProfileRequest
from coordinator.session.members import Member
from coordinator.session.questions import Ask, Todo
from coordinator.session.state import State
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import DeviceProfile, KnownTimes, Source

GATHER_SECONDS = 120.0
"""For all devices to join; then the session begins with those that have."""


def gather(state: State) -> Todo | None:
    """Waits for every expected device, for a while."""
    if state.gathered:
        return None
    members = state.members
    known = members.here.keys() | members.quarantined.keys()
    if state.job.local:  # a process that has ended does not come back by itself
        known |= members.left.keys()
    if set(state.job.devices) - known:
        return Todo("gathering")
    begin(state)
    return None


def begin(state: State) -> None:
    """Waits for nobody else, and checks those who are here.

    Raises:
        InfeasibleError: their memory does not suffice.
    """
    state.gathered = True
    here = state.members.here
    state.job.check_devices({device: here[device].joined.hello for device in state.ordered(here)})


def measure(state: State) -> Todo | None:
    """Has devices measure themselves, or only what may have changed since they did."""
    asks = profiles(state, state.ordered(state.members.planned_with()))
    return Todo("profiling", asks) if asks else None


def admit(state: State) -> Todo | None:
    """Has data sockets admit the peers."""
    together = state.ordered(state.members.planned_with())
    asks = peers(state, together, needed=together)
    return Todo("admitting", asks) if asks else None


def link(state: State) -> Todo | None:
    """Has links measured that are not known."""
    asks = probes(state, state.ordered(state.members.planned_with()))
    return Todo("linking", asks) if asks else None


def measure_aside(state: State) -> dict[DeviceId, list[Ask]]:
    """Asks those who joined while others work for what a plan must know of them.

    Also keeps everybody's peers up to date.
    """
    if state.settled:
        return {}
    everybody = state.ordered(state.members.here)
    found: dict[DeviceId, list[Ask]] = {}
    kinds = [
        profiles(state, everybody),
        peers(state, everybody, needed=everybody),
    ]
    if not any(kinds):
        kinds.append(probes(state, everybody))
    for asks in kinds:
        for device, ask in asks.items():
            found.setdefault(device, []).append(ask)
    if not found:
        state.settled = True
        for member in state.members.here.values():
            member.set_aside = False
    return found


def profiles(state: State, devices: Collection[DeviceId]) -> dict[DeviceId, Ask]:
    """Asks devices without a profile for it."""
    asks = {}
    for device in devices:
        member = state.members.here[device]
        if member.profile is None:
            known = state.known.times_of(member.joined)
            asks[device] = _ask_profile(device, known, source=_source(state, known))
    return asks


def _source(state: State, known: KnownTimes | None) -> Source:
    """Says how a device is to find what is not known of it: as well as there is use for it.

    Where nobody else is, there is nothing to choose.
    """
    if state.job.measures_thoroughly:
        return "thorough"
    if state.alone and not state.job.only_plan:
        return "estimated"
    has_reached = known is not None and state.job.manifest.quantization in known.reached
    return "estimated" if has_reached else "brief"


def _ask_profile(
    device: DeviceId, known: KnownTimes | None, *, source: Source, budget_seconds: float = 0.0
) -> Ask:
    make = partial(
        SendProfileRequest,
        device=device,
        known=known,
        source=source,
        budget_seconds=budget_seconds,
    )
    return Ask(kind=m.ProfileRequest, make=make, key=budget_seconds, of_plan=False)


def refine(state: State) -> Todo | None:
    """Has devices measure themselves better where that may lead to a plan that is worth it."""
    members = state.members.planned_with()
    if state.budgets is None:
        linked = _linked(state, members)
        state.budgets = dict(state.job.worth_measuring(linked))
    asks = {
        device: _ask_profile(
            device,
            state.known.times_of(members[device].joined),
            source="brief",
            budget_seconds=budget,
        )
        for device, budget in state.budgets.items()
        if device in members
    }
    return Todo("profiling", asks) if asks else None


def _linked(state: State, members: Mapping[DeviceId, Member]) -> list[DeviceProfile]:
    measured = {name: members[name].profile for name in state.ordered(dict(members))}
    known = {name: profile for name, profile in measured.items() if profile is not None}
    return list(state.linking.linked(known).values())


def peers(
    state: State, devices: Collection[DeviceId], needed: Collection[DeviceId]
) -> dict[DeviceId, Ask]:
    """Tells devices who the others are, where they do not know all who are ``needed``.

    What they are told has everybody who is here; nobody may stay who is not.
    """
    asks = {}
    for device in devices:
        wanted = frozenset(
            _peer(state, device, other, member)
            for other, member in state.members.here.items()
            if other != device
        )
        must = {peer for peer in wanted if peer.device in needed}
        known = state.members.here[device].peers
        if known is None or not must <= known or (wanted != known and state.plan is not None):
            listed = tuple(sorted(wanted, key=lambda peer: peer.device))
            make = partial(m.Peers, peers=listed)
            asks[device] = Ask(kind=m.Peers, make=make, key=wanted, of_plan=False)
    return asks


def _peer(state: State, device: DeviceId, other: DeviceId, member: Member) -> m.Peer:
    return m.Peer(
        device=other,
        public_key=member.joined.public_key,
        address=member.joined.hello.data_address,
        instance=member.joined.hello.instance,
        relayed=frozenset((device, other)) in state.relayed,
    )


def probes(state: State, devices: Collection[DeviceId]) -> dict[DeviceId, Ask]:
    """Has links measured in rounds of disjoint pairs."""
    return {
        sender: Ask(kind=m.ProbeLink, make=partial(_itself, probe), key=probe, of_plan=False)
        for sender, probe in state.linking.next_round(list(devices)).items()
    }


def _itself(probe: m.ProbeLink) -> m.ProbeLink:
    return probe
