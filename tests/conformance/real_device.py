"""Drives the real ``Device``: its two threads and its models, over links in memory."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import (
    FileChunk,
    FileRequest,
    Hello,
    Message,
    Shutdown,
    Welcome,
)
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.device import device as device_module
from edge_runtime.device.device import Device
from edge_runtime.device.options import DeviceOptions
from edge_runtime.device.warm import Warm
from edge_runtime.messaging.session_link import SessionLink
from export.partition.stages import Bundle
from tests.conformance.driver import TELEMETRY
from tests.conformance.memory_link import MemoryLink

BOUND_SECONDS = 20.0
ENDED_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Running:
    """A device in a session."""

    link: MemoryLink
    thread: threading.Thread
    sent: queue.SimpleQueue[tuple[Tag, Message]]


class RealDevices:
    """Serves weight files of a bundle too, as the coordinator's server does."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self._folder = folder
        self._files = {spec.sha256: bundle.file_path(spec) for spec in bundle.manifest.files}
        self._session = ""
        self._warm: dict[DeviceId, Warm] = {}
        self._running: dict[DeviceId, Running] = {}
        self._threads_before = set(threading.enumerate())

    def start(self, session: str, *names: DeviceId) -> None:
        self._session = session
        for name in names:
            self._running[name] = self._start(name)
        for name in names:
            _, hello = self.receive(name)
            assert isinstance(hello, Hello)
            self.send(name, Welcome(heartbeat_seconds=1.0), Tag(session=session))

    def _start(self, name: DeviceId) -> Running:
        sent: queue.SimpleQueue[tuple[Tag, Message]] = queue.SimpleQueue()
        link = MemoryLink(name, partial(self._receive, name), self.send_as_peer)
        options = DeviceOptions(
            device=name,
            home=self._folder / name,
            roles=("backbone", "trainer"),
            threads=1,
            data_address=link.data_address,
            process_id=os.getpid(),
        )
        warm = self._warm.setdefault(name, Warm())
        device = Device(options, cast(SessionLink, link), warm)
        running = Running(link, threading.Thread(target=device.run, daemon=True), sent)
        self._running[name] = running
        running.thread.start()
        return running

    def send(self, name: DeviceId, message: Message, tag: Tag) -> None:
        self._running[name].link.put(None, message, tag)

    def send_as_peer(self, sender: DeviceId, to: DeviceId, message: Message, tag: Tag) -> None:
        self._running[to].link.put(sender, message, tag)

    def part_size(self, parameters: int) -> int:
        return int(np.linspace(0, parameters, 3)[1])

    def _receive(self, name: DeviceId, message: Message, tag: Tag) -> None:
        """Called in threads of the device."""
        if isinstance(message, FileRequest):
            content = self._files[message.sha256].read_bytes()
            data = np.frombuffer(content, np.uint8)[message.offset :][: message.length]
            self.send(name, FileChunk(sha256=message.sha256, offset=message.offset, data=data), tag)
        elif not isinstance(message, TELEMETRY):
            self._running[name].sent.put((tag, message))

    def receive(self, name: DeviceId) -> tuple[Tag, Message]:
        try:
            return self._running[name].sent.get(timeout=BOUND_SECONDS)
        except queue.Empty:
            raise AssertionError(f"{name} does not answer") from None

    def has_ended(self, name: DeviceId) -> bool:
        self._running[name].thread.join(ENDED_SECONDS)
        return not self._running[name].thread.is_alive()

    def stop(self) -> None:
        for name in self._running:
            self.send(name, Shutdown(), Tag(session=self._session))
        self._wait_until_ended()

    def abandon(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(device_module, "SILENCE_SECONDS", 0.0)
            for running in self._running.values():
                running.link.connected = False
            self._wait_until_ended()

    def _wait_until_ended(self) -> None:
        for name, running in self._running.items():
            assert self.has_ended(name), f"{name} goes on"
            assert running.link.credited == running.link.received, "a peer waits for credit"
        left = set(threading.enumerate()) - self._threads_before
        assert not [thread for thread in left if thread.name == "compute"], "work goes on"
        self._running.clear()
