"""Every error that pacplus raises on purpose, and who is to blame for it.

The type decides what happens next: a user's mistake is explained, a bad peer is
evicted, a bug crashes with a traceback::

    PacplusError
    ├── UserError                  explained in one line, then the exit code
    │   ├── UsageError             2  wrong options
    │   ├── BadInputError          3  a file, a line or a field is not what it must be
    │   │   ├── StorageError          a disk or folder refuses; the same works once it does not
    │   │   └── UnresumableError      a session would stop for the same reason if it went on
    │   ├── MissingExtraError      3  a package is not installed; says what to install
    │   ├── InfeasibleError        4  no plan fits, or no device is there
    │   ├── StoppedError           5  stopped before the end; a run goes on with --resume
    │   └── DeviceFailedError      1  a bug of ours on a device, which would show again
    ├── RemoteError                a peer broke the protocol: reject, log, evict
    │   └── DecodeError            bytes from a peer are no valid message
    └── AllReduceClosedError       the session ended while a training step waited for its peers
"""

from .text import one_line


class PacplusError(Exception):
    """Base of all errors that pacplus raises on purpose."""

    exit_code: int = 1


class UserError(PacplusError):
    """The user can mend it; the message says what, where and how."""

    exit_code = 3


class UsageError(UserError):
    """An option or argument is wrong."""

    exit_code = 2


class BadInputError(UserError):
    """A file, a line or a field is not what it must be."""


class StorageError(BadInputError):
    """A disk or a folder refuses; the same command works once that is mended."""


class UnresumableError(BadInputError):
    """A session stopped for a reason that it would meet again: something must be changed."""


class MissingExtraError(UserError):
    """An optional dependency is needed and absent."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'pacplus[{extra}]'"
        )


class InfeasibleError(UserError):
    """No plan satisfies the constraints, or no device is available."""

    exit_code = 4


class StoppedError(UserError):
    """A session stopped before its end; the message says how to go on."""

    exit_code = 5


class DeviceFailedError(UserError):
    """A device met a bug of ours; the device's log has its traceback.

    ``said`` is what went wrong, without the advice.
    """

    exit_code = 1

    def __init__(self, text: str) -> None:
        self.said = text
        super().__init__(
            f"{text}; this is a bug of pacplus that would most likely show again: please report "
            "it with the device's log"
        )


class RemoteError(PacplusError):
    """A peer broke the protocol; what the text quotes of it is made one short printable line."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class DecodeError(RemoteError):
    """Bytes from a peer are not a valid message."""


class AllReduceClosedError(PacplusError):
    """The session ended while a step waited for its peers."""
