"""Remembers what devices are still to forget, in ``$PACPLUS_HOME/forget.json``."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Forget, Forgotten, Message
from edge_runtime.contract.structure import from_plain, to_plain
from edge_runtime.transport import home_directory
from edge_runtime.transport.files import read_private, write_private

from .forgetting import Forgetting

logger = logging.getLogger(__name__)

FILE = "forget.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    format_version: Literal[1] = 1
    devices: dict[str, tuple[Forget, ...]] = dataclasses.field(default_factory=dict)


class PendingForgets:
    """The requests of devices that were not online; every change is on disk at once.

    Raises:
        BadInputError: the file is broken, or others may read it.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._load()

    def of(self, device: DeviceId) -> tuple[Forget, ...]:
        """What a device is still to forget."""
        return self._load().get(device, ())

    def add(self, devices: Iterable[DeviceId], request: Forget) -> None:
        """Remembers a request; everything stands for all the others."""
        pending = self._load()
        for device in devices:
            others = () if request.everything else pending.get(device, ())
            if request not in others and not any(other.everything for other in others):
                pending[device] = (*others, request)
        self._store(pending)

    def remove(self, device: DeviceId, request: Forget | None = None) -> None:
        """Remembers a request no longer, or none of a device's."""
        pending = self._load()
        left = tuple(r for r in pending.get(device, ()) if request is not None and r != request)
        self._store({**pending, device: left})

    def _load(self) -> dict[str, tuple[Forget, ...]]:
        try:
            plain = json.loads(read_private(self._path))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise BadInputError(
                f"{self._path}: not valid JSON ({error}); delete it and run `pacplus forget` again"
            ) from None
        return from_plain(_File, plain, str(self._path)).devices

    def _store(self, pending: dict[str, tuple[Forget, ...]]) -> None:
        kept = {device: requests for device, requests in pending.items() if requests}
        if kept:
            write_private(self._path, json.dumps(to_plain(_File(devices=kept))).encode() + b"\n")
        else:
            self._path.unlink(missing_ok=True)


def reminder(devices: Iterable[DeviceId]) -> Reminder:
    """Opens what this coordinator's devices are still to forget."""
    return Reminder(PendingForgets(home_directory()), devices)


class Reminder:
    """Tells the devices that join a session what they are still to forget."""

    def __init__(self, pending: PendingForgets, devices: Iterable[DeviceId]) -> None:
        self._pending = pending
        self.forgetting = Forgetting({device: pending.of(device) for device in devices})

    def joined(self, device: DeviceId) -> tuple[Forget, ...]:
        """Requests to be sent before all others."""
        return self.forgetting.joined(device)

    def took(self, device: DeviceId, message: Message) -> bool:
        """Strikes off what is done; False if the message is not for this class."""
        if not isinstance(message, Forgotten):
            return False
        if message.refused:
            logger.warning("%s could not forget everything: %s", device, message.refused)
        if (done := self.forgetting.answered(device, message)) is not None:
            self._pending.remove(device, done)
        return True
