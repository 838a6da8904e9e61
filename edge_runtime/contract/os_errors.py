"""Words the operating system's refusals for people. Pure."""

import errno

_OF_DISKS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG))
_OF_LIMITS = frozenset((errno.EMFILE, errno.ENFILE))


def describe_os_error(error: OSError) -> str | None:
    """Says in one line what the system refused, and for which file.

    None where it is about no file: a socket's errors, or ones that are raised without an
    errno, are bugs unless somebody expected them.
    """
    reason = error.strerror or str(error)
    if isinstance(error.filename, str | bytes) or hasattr(error.filename, "__fspath__"):
        named = error.filename2 or error.filename
        return f"{named!s}: {reason}{_advice(error)}"
    if error.errno in _OF_DISKS | _OF_LIMITS:
        return f"{reason}{_advice(error)}"
    return None


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; free space there, or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; give yourself the right to write there, or choose another folder"
    return ""
