"""Ends a session, and says what its user can do then. Pure.

To go on helps where the same may end well the next time: devices were lost, somebody stopped it.
"""

from collections.abc import Iterable

from coordinator.protocol.actions import Action, Fail, Send
from coordinator.protocol.job import Job
from edge_runtime import __version__
from edge_runtime.contract.errors import (
    BadInputError,
    InfeasibleError,
    StoppedError,
    UserError,
)
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Hello, Shutdown

RESUME = "run the same command again with --resume to go on"
AGAIN = "try again"


def stop(error: UserError, job: Job, joined: Iterable[DeviceId]) -> list[Action]:
    """Ends the session for every device that has joined, and says how to go on."""
    if isinstance(error, StoppedError):
        trains = job.options.epochs > 0 and not job.only_plan
        error = StoppedError(f"{error}; {RESUME if trains else AGAIN}")
    shutdown = [Send(device=device, message=Shutdown()) for device in joined]
    return [*shutdown, Fail(error=error)]


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
