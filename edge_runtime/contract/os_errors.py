"""Words the operating system's refusals for people. Pure."""

import errno

_OF_FILES = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EIO", "EFBIG", "ENODEV", "ESTALE", "EMFILE", "ENFILE"),
        *("ENOENT", "EACCES", "EPERM", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "ELOOP", "ENOMEM"),
    )
    if hasattr(errno, name)
)
"""Refusals of disks, folders and limits; those of sockets and of wrong calls are not among them."""


def describe_os_error(error: OSError) -> str | None:
    """Says in one line what the system refused, for which file, and what helps.

    None for errors that nobody can mend outside of pacplus: they are bugs.
    """
    if error.errno == errno.EPIPE or not (error.filename or error.errno in _OF_FILES):
        return None
    reason = error.strerror or str(error)
    if error.filename is None:
        return f"{reason}{_advice(error)}"
    name = error.filename2 or error.filename
    shown = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return f"{shown}: {reason}{_advice(error)}"


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "; free space there, or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; allow it to be written, or choose another folder"
    return ""
