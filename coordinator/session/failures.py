"""Decides what ends a session, and what its user can do then. Pure.

Today every failure ends it; the cache and the last checkpoint remain. To go on helps where the
same may end well the next time: a device was lost, a connection broke, somebody stopped it.
What would happen again names what to change instead::

    Lost, its memory sufficed        StoppedError, --resume
    Lost, out of memory              StoppedError, more memory and --resume; before there is a
                                     plan InfeasibleError
    Failed, resumable                StoppedError, --resume
    Failed, not resumable            UnresumableError: the reason says what to change
    Failed, internal                 DeviceFailedError: a bug, to be reported
    Cloned                           InfeasibleError: pair one of the two again
"""

from collections.abc import Iterable

from coordinator.protocol.actions import Action, Fail, Record, Send
from coordinator.protocol.events import Lost
from coordinator.protocol.job import Job
from edge_runtime import __version__
from edge_runtime.contract.errors import (
    BadInputError,
    DeviceFailedError,
    InfeasibleError,
    StoppedError,
    UnresumableError,
    UserError,
)
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Failed, Hello, PeerLost, PeersReady, Shutdown

RESUME = "run the same command again with --resume to go on"
AGAIN = "try again"


def stop(error: UserError, job: Job, joined: Iterable[DeviceId]) -> list[Action]:
    """Ends the session for every device that has joined, and says how to go on."""
    if isinstance(error, StoppedError):
        trains = job.options.epochs > 0 and not job.only_plan
        error = StoppedError(f"{error}; {RESUME if trains else AGAIN}")
    shutdown = [Send(device=device, message=Shutdown()) for device in joined]
    return [*shutdown, Fail(error=error)]


def lose(event: Lost, job: Job, joined: Iterable[DeviceId], *, planned: bool) -> list[Action]:
    """Ends the session because a device is gone.

    Before there is a plan, too little memory is a matter of planning.
    """
    helps = "; give it more memory, or leave it out" if event.out_of_memory else ""
    error: UserError = StoppedError(f"{event.device} was lost: {event.reason}{helps}")
    if event.out_of_memory and not planned:
        error = InfeasibleError(f"{event.device}: {event.reason}{helps}")
    fields = {"device": event.device, "reason": event.reason}
    return [Record(event="device_lost", fields=fields), *stop(error, job, joined)]


def explain_failure(device: DeviceId, failed: Failed | PeerLost | PeersReady) -> UserError:
    """Makes the error of a device that could not do what it was asked, or reach others."""
    if isinstance(failed, PeerLost):
        return StoppedError(f"{device}: {failed.reason}")
    if isinstance(failed, PeersReady):
        peers = ", ".join(failed.unreached)
        return StoppedError(f"{device}: cannot reach {peers}; check its firewall or its --listen")
    said = f"{device}: {failed.reason}"
    if failed.internal:
        return DeviceFailedError(said)
    return StoppedError(said) if failed.resumable else UnresumableError(said)


def explain_clone(device: DeviceId) -> InfeasibleError:
    """Makes the error of two devices with one key, with what to type."""
    return InfeasibleError(
        f"two devices use the key of {device}: the folder of one was copied to the other; pair "
        "one of them again: type `pacplus pair` here, and there the command that it shows with "
        "--new-key behind it (pacplus-device pair ADDRESS TOKEN --new-key), then "
        "`pacplus-device start`"
    )


def check_software(device: DeviceId, hello: Hello) -> None:
    """Raises BadInputError if a device's messages are of another minor version."""
    if hello.software.split(".")[:2] != __version__.split(".")[:2]:
        raise BadInputError(
            f"{device} runs pacplus {hello.software or 'of no version'}, this machine "
            f"{__version__}; install the same version on both"
        )
