"""Drives the fakes that the session's tests believe."""

from __future__ import annotations

import collections

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import Message, Shutdown, Welcome
from edge_runtime.contract.messages.tag import Tag
from tests.conformance.driver import TELEMETRY, over_the_wire
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fakes.device import (
    CacheEntry,
    FakeDevice,
    TaggedPost,
    TaggedPostTo,
)


class FakeDevices:
    """Takes messages in at once, and has devices work while somebody waits for an answer."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._session = ""
        self._devices: dict[DeviceId, FakeDevice] = {}
        self._caches: dict[DeviceId, set[CacheEntry]] = {}
        self._abandoned: dict[DeviceId, FakeDevice] = {}
        self._sent: dict[DeviceId, collections.deque[tuple[Tag, Message]]] = {}

    def start(self, session: str, *names: DeviceId) -> None:
        self._session = session
        for name in names:
            held = self._caches.get(name, set())
            fresh = FakeDevice(profile(name), held, 0, self._manifest)
            self._devices[name] = self._abandoned.pop(name, fresh)
            self._sent[name] = collections.deque()
            self.send(name, Welcome(heartbeat_seconds=1.0), Tag(session=session))

    def send(self, name: DeviceId, message: Message, tag: Tag) -> None:
        if not self._devices[name].over:
            self._devices[name].take_in(*over_the_wire(message, tag), self._post(name))

    def send_as_peer(self, sender: DeviceId, to: DeviceId, message: Message, tag: Tag) -> None:
        assert sender != to, "a device sent a message to itself"
        if not self._devices[to].over:
            post = self._post(to)
            self._devices[to].take_from_peer(sender, *over_the_wire(message, tag), post)

    def receive(self, name: DeviceId) -> tuple[Tag, Message]:
        while not self._sent[name]:
            assert self._work(), f"{name} does not answer"
        return self._sent[name].popleft()

    def has_ended(self, name: DeviceId) -> bool:
        return self._devices[name].over

    def stop(self) -> None:
        for name, device in self._devices.items():
            self.send(name, Shutdown(), Tag(session=self._session))
            self._caches[name] = device.cache
        self._devices.clear()

    def part_size(self, parameters: int) -> int:
        return parameters  # fake trainers reduce nothing for others

    def abandon(self) -> None:
        self._abandoned, self._devices = self._devices, {}

    def _work(self) -> bool:
        """Has one device do its next job, if there is one that can."""
        for name, device in self._devices.items():
            if device.can_work and not device.over:
                device.work(self._post(name), self._post_to(name))
                return True
        return False

    def _post(self, name: DeviceId) -> TaggedPost:
        def post(message: Message, tag: Tag) -> None:
            if not isinstance(message, TELEMETRY):
                received, belongs = over_the_wire(message, tag)
                self._sent[name].append((belongs, received))

        return post

    def _post_to(self, name: DeviceId) -> TaggedPostTo:
        def post_to(to: DeviceId, message: Message, tag: Tag) -> None:
            self.send_as_peer(name, to, message, tag)

        return post_to
