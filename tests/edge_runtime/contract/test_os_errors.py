"""What the system refuses is worded; what is a bug stays one."""

import errno
import os

import pytest

from edge_runtime.contract.os_errors import describe_os_error


def refusal(code: int, *names: str | bytes) -> OSError:
    return OSError(code, os.strerror(code), *names)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusal(errno.EACCES, "run"), "run: Permission denied; allow it to be written"),
        (refusal(errno.ENAMETOOLONG, b"run"), "run: File name too long"),
        (OSError(errno.EXDEV, "Invalid link", "a", None, "b"), "b: Invalid link"),
        (refusal(errno.ENOSPC), "No space left on device; free space there"),
        (refusal(errno.EDQUOT), "Disk quota exceeded; free space there"),
        (refusal(errno.EROFS, "run"), "run: Read-only file system; allow"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), "No usable temporary"),
    ],
)
def test_files_and_disks_are_worded(error: OSError, said: str) -> None:
    found = describe_os_error(error)
    assert found is not None
    assert found.startswith(said)


@pytest.mark.parametrize(
    "error",
    [refusal(errno.ECONNREFUSED), refusal(errno.EBADF), refusal(errno.EPIPE), OSError("odd")],
)
def test_what_no_user_can_mend_is_a_bug(error: OSError) -> None:
    assert describe_os_error(error) is None
