"""Goals before a plan: devices are here, measured, and linked. Pure."""

from collections.abc import Collection
from functools import partial

from coordinator.protocol.actions import SendProfileRequest
from coordinator.session.members import Member
from coordinator.session.questions import Ask, Todo
from coordinator.session.state import State
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId

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
    here, thorough = state.members.here, state.job.measures_thoroughly
    return {
        device: Ask(
            kind=m.ProfileRequest,
            make=partial(
                SendProfileRequest,
                device=device,
                known=state.known.profile_of(here[device].joined, thorough=thorough),
                brief=not thorough,
            ),
            of_plan=False,
        )
        for device in devices
        if here[device].profile is None
    }


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
