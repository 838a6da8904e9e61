"""Private files: 0600 in a 0700 folder, written whole or not at all.

What was written is on the disk when a call returns: the file's content before its name, and
the folder that has the name after it, so that a power cut leaves the old file or the new one.

Permission bits are set and checked on POSIX systems. Elsewhere the user's profile
folder is private by the system's own rules.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from edge_runtime.contract.errors import BadInputError, StorageError

_POSIX = os.name == "posix"
_GROUP_OR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_GROUP_OR_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private_directory(path: Path) -> None:
    """Creates ``path`` (0700) and its parents, or checks the folder that is there.

    Raises:
        BadInputError: others may write to it.
        StorageError: it cannot be created, or is no folder.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise StorageError(f"{path}: cannot be used as a folder: {error.strerror}") from None
    if _POSIX and mode & _GROUP_OR_OTHERS_WRITE:
        raise BadInputError(f"{path}: others may write to this folder; run: chmod 700 '{path}'")


def read_private(path: Path) -> bytes:
    """Reads a file that only its owner may read.

    Raises:
        FileNotFoundError: there is no such file.
        BadInputError: it cannot be read, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    if _POSIX and mode & _GROUP_OR_OTHERS:
        raise BadInputError(f"{path}: others may read this file; run: chmod 600 '{path}'")
    return content


def write_private(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content`` in one step; a power cut leaves the old or the new file.

    Raises:
        BadInputError: others may write to the folder.
        StorageError: the disk refuses.
    """
    make_private_directory(path.parent)
    try:
        _write_new(_temporary_beside(path), content).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def create_private(path: Path, content: bytes) -> bool:
    """Creates ``path`` with ``content`` unless it exists; of several callers one wins.

    Returns:
        True if this call created it.

    Raises:
        BadInputError: others may write to the folder.
        StorageError: the disk refuses.
    """
    make_private_directory(path.parent)
    try:
        temporary = _write_new(_temporary_beside(path), content)
        try:
            os.link(temporary, path)  # unlike a rename, never replaces
        except FileExistsError:
            raise
        except OSError:
            # Android and FAT know no hard links: exclusive creation still lets one caller win.
            _write_new(path, content)
        finally:
            temporary.unlink()
        sync_folder(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None
    return True


def sync_folder(folder: Path) -> None:
    """Waits until names that were made, changed or removed in ``folder`` are on the disk.

    Where a system cannot do that for folders (Windows, some network file systems), it is left
    to its own times.
    """
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _write_new(path: Path, content: bytes) -> Path:
    """Writes a 0600 file through to the disk; raises FileExistsError where there is one."""
    with open(path, "xb", opener=open_private) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
    return path


def open_private(path: str, flags: int) -> int:
    """Opens a file so that one which is made belongs to its owner only; for ``open``'s opener."""
    return os.open(path, flags, 0o600)
