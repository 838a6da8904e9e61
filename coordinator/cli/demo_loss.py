"""Takes a device away from the demo, in the middle of the fill: ``pacplus demo --kill``."""

import os
import signal

from coordinator.cluster.host import Host
from coordinator.protocol.actions import Record
from coordinator.render.console import say
from coordinator.render.live_progress import LiveDisplay
from coordinator.session.machine import Session
from edge_runtime.contract.ids import DeviceId


class LosingDisplay(LiveDisplay):
    """Shows progress, and kills the process of the device that owns most, once, half-way."""

    _watched: Session | None = None
    _process: dict[DeviceId, int]

    def started(self, session: Session, host: Host) -> None:
        """Starts drawing."""
        self._watched, self._process = session, {}
        super().started(session, host)

    def event(self, record: Record) -> None:
        """Prints what should stay on the screen."""
        if record.event == "device_joined":
            self._process[record.fields["device"]] = record.fields["pid"]
        super().event(record)

    def tick(self) -> None:
        """Redraws, if it is time; kills, if it is time."""
        super().tick()
        session = self._watched
        if session is None or session.phase != "filling":
            return
        if 2 * session.record.stored >= session.record.to_store > 0:
            self._watched = None
            lost = max(session.plan.owners, key=lambda owner: len(owner.shards)).device
            say(self._console, f"killing {lost}, as --kill asks for", style="yellow")
            os.kill(self._process[lost], signal.SIGKILL)
