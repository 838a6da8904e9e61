"""Long-term CURVE key pairs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path
from typing import Literal, NewType

import zmq
from zmq.utils import z85

from edge_runtime.contract.checks import require
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import from_plain, to_plain

from .files import create_private, read_private, write_private

PublicKey = NewType("PublicKey", str)
"""A CURVE public key as 40 characters of Z85 text; no secret."""

_Z85_KEY_CHARACTERS = 40


def check_public_key(text: str) -> PublicKey:
    """Checks that ``text`` is a CURVE public key.

    Raises:
        ValueError: it is not 40 characters of Z85.
    """
    decode_key(text)
    return PublicKey(text)


def decode_key(text: str) -> bytes:
    """Decodes a Z85 key to its 32 bytes.

    Raises:
        ValueError: it is not 40 characters of Z85.
    """
    if len(text) == _Z85_KEY_CHARACTERS:
        try:
            raw = z85.decode(text.encode("ascii"))
        except (ValueError, KeyError, struct.error):
            raw = b""
        # An encoding that does not come back would give one key several names.
        if len(raw) == 32 and z85.encode(raw).decode("ascii") == text:
            return raw
    raise ValueError("a public key is 40 characters of Z85")


def encode_key(raw: bytes) -> PublicKey:
    """Encodes the 32 bytes of a public key."""
    return PublicKey(z85.encode(raw).decode("ascii"))


def fingerprint(public_key: PublicKey) -> str:
    """Short name of a public key for logs and people, e.g. ``3fa1:09bc:77de:1200``."""
    digest = hashlib.sha256(public_key.encode("utf-8")).hexdigest()
    return ":".join(digest[start : start + 4] for start in range(0, 16, 4))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A CURVE key pair.

    Attributes:
        public: may be shown to anyone.
        secret: 40 characters of Z85; never shown, not even by ``repr``.
    """

    public: PublicKey
    secret: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        derived = zmq.curve_public(self.secret).decode("ascii")
        require(derived == self.public, "public and secret key do not belong together")

    @classmethod
    def generate(cls) -> KeyPair:
        """Makes a new key pair from the system's randomness."""
        public, secret = zmq.curve_keypair()
        return cls(public=PublicKey(public.decode("ascii")), secret=secret)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _KeyFile:
    format_version: Literal[1]
    public_key: str
    secret_key: str = dataclasses.field(repr=False)


def load_or_create_keypair(path: Path) -> KeyPair:
    """Loads the key pair at ``path``; makes and stores one (0600) when there is none.

    Raises:
        BadInputError: the file is broken, readable by others, or cannot be written.
    """
    try:
        return _parse(read_private(path), path)
    except FileNotFoundError:
        pass
    keypair = KeyPair.generate()
    if create_private(path, _key_file(keypair)):
        return keypair
    return _parse(read_private(path), path)  # another process was first


def replace_keypair(path: Path, keypair: KeyPair) -> None:
    """Stores a key pair (0600) in place of the one at ``path``.

    Raises:
        BadInputError: the file cannot be written.
    """
    write_private(path, _key_file(keypair))


def _key_file(keypair: KeyPair) -> bytes:
    secret = keypair.secret.decode("ascii")
    content = _KeyFile(format_version=1, public_key=keypair.public, secret_key=secret)
    return json.dumps(to_plain(content), indent=2).encode() + b"\n"


def _parse(content: bytes, path: Path) -> KeyPair:
    # No cause is chained: a parser's message may quote the secret.
    try:
        stored = from_plain(_KeyFile, json.loads(content))
        decode_key(stored.secret_key)
        public = check_public_key(stored.public_key)
        return KeyPair(public=public, secret=stored.secret_key.encode("ascii"))
    except (ValueError, RecursionError, BadInputError):
        pass
    raise BadInputError(
        f"{path}: not a key file of this version; restore it from a backup, "
        "or delete it and pair again"
    )
