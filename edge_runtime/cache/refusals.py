"""Refusals of the system when a cache folder is used: a full disk is none that ends anything."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.contract.errors import BadInputError

FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Refusals of a disk, of a limit to the size of files, of a user's quota."""


@contextmanager
def explaining(folder: Path, doing: str) -> Iterator[None]:
    """Turns the system's refusals into an error that says how to mend it."""
    try:
        yield
    except OSError as error:
        raise BadInputError(
            f"cannot {doing} the activation cache {folder}: {error.strerror}; "
            "free space or permissions there, or set PACPLUS_HOME"
        ) from error
