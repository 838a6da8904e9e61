"""The folder of a user's state; needs no ZeroMQ."""

import os
import sys
from pathlib import Path

from .files import make_private_directory


def home_directory() -> Path:
    """The folder of keys, paired devices and caches; created (0700) when absent.

    ``$PACPLUS_HOME``, else the platform's folder for user data.

    Raises:
        BadInputError: it cannot be created, or others may write to it.
    """
    make_private_directory(path := _home_path())
    return path


def _home_path() -> Path:
    chosen = os.environ.get("PACPLUS_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "pacplus"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pacplus"
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore a relative path.
    base = Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share"
    return base / "pacplus"
