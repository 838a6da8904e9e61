"""``pacplus`` with handles for faults: its devices can be corrupted, and their links cut.

Reads commands from standard input, one a line: ``cut DEVICE`` has the device's link carry
nothing, ``mend DEVICE`` has it carry again. What is patched here is patched nowhere else.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from coordinator.cluster import liveness
from coordinator.cluster.emulated_links import EmulatedLinks
from coordinator.protocol.job import Job
from devices.emulation import EmulatedCluster
from devices.relay import Link

from .run import SILENCE

BEATS = 8
"""Heartbeats of a device in the time after which it is given up."""

_links: dict[str, Link] = {}
_attach, _start = EmulatedLinks.attach, EmulatedCluster.start


def main() -> None:
    """Runs ``pacplus`` with the arguments of this process."""
    EmulatedLinks.attach = _attach_and_note  # type: ignore[method-assign]
    EmulatedCluster.start = _start_with_hooks  # type: ignore[method-assign]
    if SILENCE in os.environ:
        _hasten(float(os.environ[SILENCE]))
    threading.Thread(target=_obey, daemon=True).start()
    from coordinator.cli.main import main as pacplus

    pacplus()


def _hasten(silence_seconds: float) -> None:
    """Has devices speak more often, and gives them up sooner."""
    liveness.SILENCE_SECONDS = silence_seconds
    defaults = Job.__init__.__kwdefaults__
    assert defaults is not None
    defaults["heartbeat_seconds"] = silence_seconds / BEATS


def _attach_and_note(self: EmulatedLinks, device: Any, link: Link) -> None:
    _links[device] = link
    _attach(self, device, link)


def _start_with_hooks(self: EmulatedCluster, device: Any, command: Any, **options: Any) -> Any:
    hooked = ["benchmarks.faults.device" if word == "edge_runtime" else word for word in command]
    return _start(self, device, hooked, **options)


def _obey() -> None:
    for line in sys.stdin:
        order, device = line.split()
        {"cut": Link.cut, "mend": Link.mend}[order](_links[device])


if __name__ == "__main__":
    main()
