"""Explains to the coordinator why this device could not do what it was asked. Pure."""

from edge_runtime.contract.errors import PacplusError, RemoteError, UnresumableError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Failed
from edge_runtime.contract.os_errors import describe_os_error


class PeerError(RemoteError):
    """A message of ``peer`` was rejected."""

    def __init__(self, peer: DeviceId, reason: str) -> None:
        super().__init__(f"rejected a message of {peer}: {reason}")
        self.peer, self.reason = peer, reason


def explain(error: Exception, doing: str = "") -> Failed:
    """Makes the message of an error; ``doing`` stands before its text."""
    if isinstance(error, PacplusError):
        return Failed(reason=f"{doing}{error}", resumable=not isinstance(error, UnresumableError))
    if isinstance(error, OSError) and (said := describe_os_error(error)) is not None:
        return Failed(reason=f"{doing}{said}")
    reason = f"{doing}internal error: {type(error).__name__}: {error}"
    return Failed(reason=reason, resumable=False, internal=True)
