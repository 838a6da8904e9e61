"""Decides what ends a session, and what its user can do then. Pure.

Today every lost device ends it; the cache and the last checkpoint remain.
"""

from collections.abc import Iterable

from coordinator.protocol.actions import Action, Fail, Record, Send
from coordinator.protocol.events import Lost
from coordinator.protocol.job import Job
from edge_runtime import __version__
from edge_runtime.contract.errors import (
    BadInputError,
    InfeasibleError,
    StoppedError,
    UnresumableError,
    UserError,
)
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Failed, Hello, Shutdown

RESUME = "run the same command again with --resume to go on"
AGAIN = "try again"


def stop(error: UserError, job: Job, joined: Iterable[DeviceId]) -> list[Action]:
    """Ends the session for every device that has joined, and says how to go on."""
    if isinstance(error, StoppedError):
        trains = job.options.epochs > 0 and not job.only_plan
        error = StoppedError(f"{error}; {RESUME if trains else AGAIN}")
    shutdown = [Send(device=device, message=Shutdown()) for device in joined]
    return [*shutdown, Fail(error=error)]


def failed(device: DeviceId, message: Failed) -> UserError:
    """Says why a device could not do what it was asked for."""
    kind = StoppedError if message.resumable else UnresumableError
    return kind(f"{device}: {message.reason}")


def lose(event: Lost, job: Job, joined: Iterable[DeviceId], *, planned: bool) -> list[Action]:
    """Ends the session because a device is gone.

    Before there is a plan, too little memory is a matter of planning.
    """
    error: UserError = StoppedError(f"{event.device} was lost: {event.reason}")
    if event.out_of_memory and not planned:
        error = InfeasibleError(f"{event.device}: {event.reason}; give it more, or leave it out")
    fields = {"device": event.device, "reason": event.reason}
    return [Record(event="device_lost", fields=fields), *stop(error, job, joined)]


def check_software(device: DeviceId, hello: Hello) -> None:
    """Raises BadInputError if a device's messages are of another minor version."""
    if hello.software.split(".")[:2] != __version__.split(".")[:2]:
        raise BadInputError(
            f"{device} runs pacplus {hello.software or 'of no version'}, this machine "
            f"{__version__}; install the same version on both"
        )
