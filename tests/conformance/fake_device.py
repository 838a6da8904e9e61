"""Drives the fakes that the session's tests believe."""

from __future__ import annotations

import collections
from functools import partial

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import Message, Shutdown, Welcome
from tests.conformance.driver import TELEMETRY
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fake_cluster import over_the_wire
from tests.coordinator.session.fake_device import CacheEntry, FakeDevice, Post, PostTo


class FakeDevices:
    """Takes messages in at once, and has devices work while somebody waits for an answer."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._devices: dict[DeviceId, FakeDevice] = {}
        self._caches: dict[DeviceId, set[CacheEntry]] = {}
        self._sent: dict[DeviceId, collections.deque[Message]] = {}

    def start(self, *names: DeviceId) -> None:
        for name in names:
            held = self._caches.get(name, set())
            self._devices[name] = FakeDevice(profile(name), held, 0, self._manifest)
            self._sent[name] = collections.deque()
            self.send(name, Welcome(heartbeat_seconds=1.0))

    def send(self, name: DeviceId, message: Message) -> None:
        if not self._devices[name].over:
            self._devices[name].take_in(over_the_wire(message), self._post(name))

    def send_as_peer(self, sender: DeviceId, to: DeviceId, message: Message) -> None:
        assert sender != to, "a device sent a message to itself"
        self.send(to, message)

    def receive(self, name: DeviceId) -> Message:
        while not self._sent[name]:
            assert self._work(), f"{name} does not answer"
        return self._sent[name].popleft()

    def has_ended(self, name: DeviceId) -> bool:
        return self._devices[name].over

    def stop(self) -> None:
        for name, device in self._devices.items():
            self.send(name, Shutdown())
            self._caches[name] = device.cache

    def _work(self) -> bool:
        """Has one device do its next job, if there is one that can."""
        for name, device in self._devices.items():
            if device.jobs and not device.over and not device.waits_for(self._devices):
                device.work(self._post(name), self._post_to(name))
                return True
        return False

    def _post(self, name: DeviceId) -> Post:
        def post(message: Message) -> None:
            if not isinstance(message, TELEMETRY):
                self._sent[name].append(over_the_wire(message))

        return post

    def _post_to(self, name: DeviceId) -> PostTo:
        return partial(self.send_as_peer, name)
