"""What a device says of an error: whether the same would happen again, and whose fault it is."""

import errno

import pytest

from edge_runtime.contract.errors import (
    BadInputError,
    RemoteError,
    StorageError,
    UnresumableError,
)
from edge_runtime.contract.messages import Failed
from edge_runtime.messaging.failures import explain


@pytest.mark.parametrize(
    ("error", "resumable"),
    [
        (RemoteError("x"), True),
        (BadInputError("x"), True),
        (StorageError("x"), True),
        (UnresumableError("x"), False),
    ],
)
def test_errors_of_pacplus_say_what_they_say(error: Exception, resumable: bool) -> None:
    assert explain(error, "a: ") == Failed(reason="a: x", resumable=resumable)


def test_a_full_disk_is_no_bug() -> None:
    found = explain(OSError(errno.ENOSPC, "No space left on device", "/cache"))
    assert found.reason.startswith("/cache: No space left on device; free space")
    assert (found.resumable, found.internal) == (True, False)


@pytest.mark.parametrize("error", [KeyError("x"), OSError(errno.EBADF, "Bad file descriptor")])
def test_a_bug_would_show_again(error: Exception) -> None:
    found = explain(error)
    assert found.reason.startswith(f"internal error: {type(error).__name__}: ")
    assert (found.resumable, found.internal) == (False, True)
