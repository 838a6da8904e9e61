"""The links of emulated devices: every connection of a device passes through its own relay.

A connection from device A to device B leaves through A's link and enters through B's, so
both bandwidths and both latencies count; the coordinator's end has no link of its own. What
passes is encrypted end to end, the relays see opaque bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from typing import TYPE_CHECKING

from coordinator.planner.problem.links import LinkMeasurement
from devices.specification import EmulatedDevice
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Peer, Peers
from edge_runtime.transport import Address

if TYPE_CHECKING:
    from devices.relay import Link


class EmulatedLinks(contextlib.ExitStack):
    """Holds a :class:`devices.relay.Link` for each device, by the id that it is paired under."""

    def __init__(self, dilation: float) -> None:
        """``dilation`` divides every rate and multiplies every latency."""
        super().__init__()
        self._dilation = dilation
        self._links: dict[DeviceId, Link] = {}
        self._relays: dict[tuple[Link, Address, bool], Address] = {}
        self._data: dict[DeviceId, Address] = {}

    def open(self, device: EmulatedDevice) -> Link:
        """Starts the link of a device."""
        from devices.relay import Link  # imports asyncio

        link = Link(
            rate_bits_per_second=device.link_bits_per_second / self._dilation,
            latency_seconds=device.latency_seconds * self._dilation,
        )
        return self.enter_context(link)

    def attach(self, device: DeviceId, link: Link) -> None:
        """Says under which id the device of ``link`` is known from now on."""
        self._links[device] = link

    def way_out(self, link: Link, target: Address) -> Address:
        """Gives the address at which the device of ``link`` reaches ``target`` through it."""
        return self._relay(link, target, to_device=False)

    def between(self) -> dict[tuple[DeviceId, DeviceId], LinkMeasurement]:
        """Links from device to device, as the relays carry them; measuring adds noise only."""
        return {
            (sender, receiver): LinkMeasurement(
                bits_per_second=min(up.rate_bits_per_second, down.rate_bits_per_second),
                latency_seconds=up.latency_seconds + down.latency_seconds,
            )
            for (sender, up), (receiver, down) in itertools.permutations(self._links.items(), 2)
        }

    def reroute(self, device: DeviceId, peers: Peers) -> Peers:
        """Gives peers the addresses at which ``device`` reaches them over both links."""
        return Peers(peers=tuple(self._rerouted(device, peer) for peer in peers.peers))

    def _rerouted(self, device: DeviceId, peer: Peer) -> Peer:
        address = Address.parse(peer.address)
        before = self._data.get(peer.device, address)
        if before != address:  # it was started again: nobody goes to where it was
            self._close_relays(before)
        self._data[peer.device] = address
        if (theirs := self._links.get(peer.device)) is not None:
            address = self._relay(theirs, address, to_device=True)
        if (mine := self._links.get(device)) is not None:
            address = self.way_out(mine, address)
        return dataclasses.replace(peer, address=address.endpoint)

    def _close_relays(self, target: Address) -> None:
        for key, at in list(self._relays.items()):
            link, to, _ = key
            if to == target and key in self._relays:
                del self._relays[key]
                link.stop((at.host, at.port))
                self._close_relays(at)

    def _relay(self, link: Link, target: Address, *, to_device: bool) -> Address:
        key = (link, target, to_device)
        if key not in self._relays:
            host, port = link.relay((target.host, target.port), to_device=to_device)
            self._relays[key] = Address(host=host, port=port)
        return self._relays[key]
