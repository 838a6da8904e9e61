"""Why a session stops, and what the user can do then."""

from __future__ import annotations

from coordinator.protocol.events import Lost
from coordinator.protocol.job import Job
from edge_runtime import __version__
from edge_runtime.contract.errors import BadInputError, InfeasibleError, StoppedError, UserError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Hello

RESUME = "run the same command again with --resume to go on"
AGAIN = "try again"


def with_advice(error: UserError, job: Job) -> UserError:
    """The error, and what to do if nothing is wrong with what the user gave."""
    if not isinstance(error, StoppedError):
        return error
    trains = job.options.epochs > 0 and not job.only_plan
    return StoppedError(f"{error}; {RESUME if trains else AGAIN}")


def lost(event: Lost, *, planned: bool) -> UserError:
    """A device is gone; before there is a plan, too little memory is a matter of planning."""
    if event.out_of_memory and not planned:
        return InfeasibleError(f"{event.device}: {event.reason}; give it more, or leave it out")
    return StoppedError(f"{event.device} was lost: {event.reason}")


def check_software(device: DeviceId, hello: Hello) -> None:
    """Messages are those of one minor version.

    Raises:
        BadInputError: the device runs another one.
    """
    if hello.software.split(".")[:2] != __version__.split(".")[:2]:
        raise BadInputError(
            f"{device} runs pacplus {hello.software or 'of no version'}, this machine "
            f"{__version__}; install the same version on both"
        )
