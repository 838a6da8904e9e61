"""Has devices delete what they keep of a bundle: a small session of its own."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from devices.this_machine import EMULATED
from edge_runtime.cache.keys import CacheKeys
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import BadInputError, DecodeError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Forget, Hello, Message, Shutdown, Welcome
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.device.forgetting import forget as delete_here
from edge_runtime.transport import (
    Address,
    Delivery,
    PairedDevices,
    SecureContext,
    SecureRouter,
    home_directory,
    load_or_create_keypair,
)

from .pending_forgets import PendingForgets, Reminder

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
FAREWELL_SECONDS = 3.0
_TURN_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceForgot:
    """How far one device has got: ``pending`` says why it is not done, empty if it is."""

    device: str
    local: bool
    bytes: int = 0
    pending: str = ""


def forget(
    request: Forget, *, listen: str, wait_seconds: float, waiting_for: Callable[[str], None]
) -> list[DeviceForgot]:
    """Deletes on this machine's local devices and on the paired ones that join in time.

    The others are remembered, and told by whichever command they join next.

    Args:
        request: what is to be deleted.
        listen: where paired devices find this coordinator.
        wait_seconds: how long they may take to join.
        waiting_for: is told which devices have not answered, whenever that changes.
    """
    home = home_directory()
    paired = PairedDevices(home / "devices.json")
    pending = PendingForgets(home)
    devices = tuple(entry.device_id for entry in paired)
    pending.add(devices, request)  # first: nothing that happens now may lose it
    done = [_on_local_device(path, request) for path in sorted((home / EMULATED).glob("*/"))]
    if not devices:
        return done
    reminder, problem = Reminder(pending, devices), "not online"
    with SecureContext() as context:
        keypair = load_or_create_keypair(home / "coordinator.json")
        router = SecureRouter(context, keypair, domain="control")
        try:
            for entry in paired:
                router.allow(entry.device_id, entry.public_key)
            router.bind(Address.parse(listen))
            _Session(router, reminder).run(time.monotonic() + wait_seconds, waiting_for)
        except BadInputError as error:
            problem = str(error)
        finally:
            router.close()
    forgetting = reminder.forgetting
    for device in devices:
        why = forgetting.refused.get(device, problem if device in forgetting.unanswered else "")
        freed = forgetting.freed_bytes.get(device, 0)
        done.append(DeviceForgot(device=device, local=False, bytes=freed, pending=why))
    return done


def _on_local_device(home: Path, request: Forget) -> DeviceForgot:
    answer = delete_here(home, request, CacheKeys(home))
    return DeviceForgot(device=home.name, local=True, bytes=answer.bytes, pending=answer.refused)


class _Session:
    """Welcomes devices, tells them what to forget, and sends them home at the end."""

    def __init__(self, router: SecureRouter, reminder: Reminder) -> None:
        self._router, self._reminder = router, reminder
        self._session, self._requests = secrets.token_hex(8), 0

    def run(self, deadline: float, waiting_for: Callable[[str], None]) -> None:
        told = None
        while (left := self._reminder.forgetting.unanswered) and time.monotonic() < deadline:
            if left != told:
                waiting_for(", ".join(sorted(left)))
                told = left
            received = self._router.recv(_TURN_SECONDS)
            if received is not None:
                self._take_in(received.device, received.frames)
        self._send_home()

    def _send_home(self) -> None:
        """Ends the devices' sessions, and waits a moment until they have gone.

        Closing at once might cut off what is on its way to them.
        """
        there = set(self._router.connected_devices())
        for device in there:
            self._send(device, Shutdown())
        deadline = time.monotonic() + FAREWELL_SECONDS
        while there and time.monotonic() < deadline:
            received = self._router.recv(_TURN_SECONDS / 5)
            if received is not None and _is_hello(received.frames):
                there.discard(received.device)  # it has gone, and come back for the next session
            there &= self._router.connected_devices()

    def _take_in(self, device: DeviceId, frames: list[memoryview]) -> None:
        try:
            message = decode(frames)
        except DecodeError as error:
            logger.warning("rejected a message of %s: %s", device, error)
            return
        if isinstance(message, Hello):
            self._send(device, Welcome(heartbeat_seconds=HEARTBEAT_SECONDS))
            for request in self._reminder.joined(device):
                self._send(device, request)
        else:
            self._reminder.took(device, message)

    def _send(self, device: DeviceId, message: Message) -> None:
        """Sends what is small enough never to wait; a device that is gone says hello again."""
        self._requests += 1
        tag = Tag(session=self._session, reply=self._requests)
        if self._router.send(device, encode(message, tag)) is not Delivery.QUEUED:
            logger.info("%s is gone again", device)


def _is_hello(frames: list[memoryview]) -> bool:
    try:
        return isinstance(decode(frames), Hello)
    except DecodeError:
        return False
