"""The key that a device encrypts its caches with: drawn on first use, or from a passphrase."""

import dataclasses
import hashlib
import json
import os
import secrets
import unicodedata
from pathlib import Path
from typing import Literal, TypeVar

from edge_runtime.contract.checks import require
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import from_plain, to_plain
from edge_runtime.transport.files import create_private, read_private

from .record import KEY_BYTES

T = TypeVar("T", "_StoredKey", "_StoredSalt")

PASSPHRASE_VARIABLE = "PACPLUS_CACHE_PASSPHRASE"  # noqa: S105 - a name, no secret
KEY_FILE, SALT_FILE = "cache-key.json", "cache-salt.json"

_SALT_BYTES = 16
_BLOCK_SIZE = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _StoredKey:
    format_version: Literal[1] = 1
    key: str = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        require(len(bytes.fromhex(self.key)) == KEY_BYTES, "key has not 32 bytes")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _StoredSalt:
    """Parameters of scrypt (RFC 7914); the cost is a power of two."""

    format_version: Literal[1] = 1
    salt: str
    log2_cost: int = 15

    def __post_init__(self) -> None:
        require(len(bytes.fromhex(self.salt)) == _SALT_BYTES, "salt has not 16 bytes")
        require(14 <= self.log2_cost <= 20, "log2_cost is not within 14 and 20")


class CacheKeys:
    """Gives the key of a device's caches, made when it is first asked for.

    Args:
        home: the device's folder, where the key (0600), or the passphrase's salt, is stored.
        passphrase: to derive the key from; empty for a stored key.
    """

    def __init__(self, home: Path, passphrase: str = "") -> None:
        self._home, self._passphrase = home, passphrase
        self._key = b""

    def key(self) -> bytes:
        """The key, 32 bytes.

        Raises:
            BadInputError: its file is broken, readable by others, or cannot be written.
        """
        if not self._key:
            self._key = self._derived() if self._passphrase else self._stored()
        return self._key

    def forget(self) -> None:
        """Deletes what is stored of the key, so that what it encrypted can be read no more.

        Raises:
            OSError: it cannot be deleted.
        """
        self._key = b""
        for name in (KEY_FILE, SALT_FILE):
            (self._home / name).unlink(missing_ok=True)

    def _stored(self) -> bytes:
        new = _StoredKey(key=secrets.token_hex(KEY_BYTES))
        return bytes.fromhex(_load_or_create(self._home / KEY_FILE, new).key)

    def _derived(self) -> bytes:
        new = _StoredSalt(salt=secrets.token_hex(_SALT_BYTES))
        stored = _load_or_create(self._home / SALT_FILE, new)
        cost = 1 << stored.log2_cost
        return hashlib.scrypt(
            unicodedata.normalize("NFC", self._passphrase).encode(),
            salt=bytes.fromhex(stored.salt),
            n=cost,
            r=_BLOCK_SIZE,
            p=1,
            maxmem=2 * 128 * _BLOCK_SIZE * cost,
            dklen=KEY_BYTES,
        )


def read_passphrase(file: Path | None) -> str:
    """Reads the passphrase from a file's first line, else from the environment; may be empty.

    The environment's is taken out of it, so that no other process inherits it.

    Raises:
        BadInputError: the file cannot be read, is readable by others, or is empty.
    """
    given = os.environ.pop(PASSPHRASE_VARIABLE, "")
    if file is None:
        return given
    try:
        lines = read_private(file).decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        raise BadInputError(f"{file}: is no text file; write the passphrase to it") from None
    if not lines or not lines[0]:
        raise BadInputError(f"{file}: is empty; write the passphrase to its first line")
    return lines[0]


def _load_or_create(path: Path, new: T) -> T:
    try:
        content = read_private(path)
    except FileNotFoundError:
        if create_private(path, json.dumps(to_plain(new)).encode() + b"\n"):
            return new
        content = read_private(path)  # another process was first
    # No cause is chained: a parser's message may quote the secret.
    try:
        return from_plain(type(new), json.loads(content))
    except (ValueError, RecursionError, BadInputError):
        pass
    raise BadInputError(
        f"{path}: is broken; restore it from a backup, or delete it and the encrypted caches "
        "(pacplus-device cache --remove DIGEST)"
    )
