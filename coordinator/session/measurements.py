"""Re-uses measurements of earlier sessions where they still hold. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from coordinator.planner.problem.calibrate import known_times
from coordinator.planner.problem.links import LinkMeasurement
from coordinator.protocol.events import Joined
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.profile import DeviceProfile, KnownTimes, Role

from .link_schedule import Pair


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementKey:
    """Properties of a device that its measurements depend on.

    Attributes:
        public_key: which device it is; ids are given anew.
        software: version of pacplus.
        roles: what it offers.
        threads: the most that it computes with.
        cores: CPU quota in cores.
        host: where its data socket listens: the network that it is in.
    """

    public_key: str
    software: str
    roles: tuple[Role, ...]
    threads: int
    cores: float
    host: str

    @classmethod
    def of(cls, joined: Joined) -> MeasurementKey:
        """Makes the key of a device that has joined."""
        hello = joined.hello
        return cls(
            public_key=joined.public_key,
            software=hello.software,
            roles=hello.roles,
            threads=hello.threads,
            cores=hello.cores,
            host=hello.data_address.rpartition(":")[0],
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownProfile:
    """Holds a device's times and the key that they were measured under."""

    conditions: MeasurementKey
    times: KnownTimes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownLink:
    """Holds a link and the keys of its ends when it was measured."""

    sender: MeasurementKey
    receiver: MeasurementKey
    link: LinkMeasurement


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevices:
    """Holds earlier measurements."""

    profiles: Mapping[DeviceId, KnownProfile] = dataclasses.field(default_factory=dict)
    links: Mapping[Pair, KnownLink] = dataclasses.field(default_factory=dict)

    def times_of(self, joined: Joined) -> KnownTimes | None:
        """Finds the device's times, if they were measured as the device is now."""
        known = self.profiles.get(joined.device)
        if known is None or known.conditions != MeasurementKey.of(joined):
            return None
        return known.times

    def links_between(self, joined: Mapping[DeviceId, Joined]) -> dict[Pair, LinkMeasurement]:
        """Finds the links whose ends are as they were."""
        now = {device: MeasurementKey.of(entry) for device, entry in joined.items()}
        return {
            (sender, receiver): known.link
            for (sender, receiver), known in self.links.items()
            if (now.get(sender), now.get(receiver)) == (known.sender, known.receiver)
        }


def known_devices(
    manifest: Manifest,
    joined: Mapping[DeviceId, Joined],
    profiles: Mapping[DeviceId, DeviceProfile],
    links: Mapping[Pair, LinkMeasurement],
) -> KnownDevices:
    """Gathers the measurements of devices that have joined, for a bundle's blocks."""
    times = {device: known_times(manifest, profile) for device, profile in profiles.items()}
    now = {device: MeasurementKey.of(entry) for device, entry in joined.items()}
    return KnownDevices(
        profiles={
            device: KnownProfile(conditions=now[device], times=known)
            for device, known in times.items()
            if device in now and known is not None
        },
        links={
            (sender, receiver): KnownLink(sender=now[sender], receiver=now[receiver], link=link)
            for (sender, receiver), link in links.items()
            if sender in now and receiver in now
        },
    )
