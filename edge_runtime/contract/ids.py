"""Names for the things that messages speak of."""

from __future__ import annotations

from typing import NewType

DeviceId = NewType("DeviceId", str)
"""Name of a paired device, unique at its coordinator, e.g. ``jetson-nano-1``."""

SampleKey = NewType("SampleKey", bytes)
"""32 bytes: what a sample's backbone outputs are filed under; see :mod:`.sample`."""

Sha256 = NewType("Sha256", str)
"""Lower-case hexadecimal SHA-256."""
