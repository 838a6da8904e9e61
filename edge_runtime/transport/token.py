"""The one-time token that a person carries from the coordinator to a new device."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import secrets

from edge_runtime.contract.errors import BadInputError

from .keys import PublicKey, decode_key, encode_key

_PREFIX = "pacplus1-"
_KEY_BYTES = 32
_SECRET_BYTES = 16
_CHECK_BYTES = 2  # 50 bytes in all: a mistyped character is noticed before dialling


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairingToken:
    """The shared secret by which a device and a coordinator come to trust each other.

    Attributes:
        coordinator_key: by which the device recognizes the coordinator.
        secret: 16 bytes by which the coordinator recognizes the device.
    """

    coordinator_key: PublicKey
    secret: bytes = dataclasses.field(repr=False)

    @classmethod
    def generate(cls, coordinator_key: PublicKey) -> PairingToken:
        """Makes a new token of the coordinator with this key."""
        return cls(coordinator_key=coordinator_key, secret=secrets.token_bytes(_SECRET_BYTES))

    def text(self) -> str:
        """The token as a person copies it: ``pacplus1-`` and 80 letters and digits."""
        payload = decode_key(self.coordinator_key) + self.secret
        encoded = base64.b32encode(payload + _check(payload)).decode("ascii")
        return _PREFIX + encoded.rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> PairingToken:
        """Reads :meth:`text` back; case and surrounding spaces do not matter.

        Raises:
            BadInputError: it is no token, or a character of it is wrong.
        """
        folded = text.strip().lower()
        if not folded.startswith(_PREFIX):
            raise BadInputError(f"token: it starts with {_PREFIX}; copy it from `pacplus pair`")
        encoded = folded.removeprefix(_PREFIX).upper()
        try:
            raw = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
        except (binascii.Error, ValueError):
            raw = b""
        payload, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        if len(payload) != _KEY_BYTES + _SECRET_BYTES or check != _check(payload):
            raise BadInputError("token: a character is wrong or missing; copy it again, whole")
        return cls(coordinator_key=encode_key(payload[:_KEY_BYTES]), secret=payload[_KEY_BYTES:])


def _check(payload: bytes) -> bytes:
    """A cyclic check: no single wrong character has the one of the right token."""
    return binascii.crc_hqx(payload, 0).to_bytes(_CHECK_BYTES, "big")
