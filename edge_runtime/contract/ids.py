"""Identifier types of devices, samples and files."""

from __future__ import annotations

from typing import NewType

DeviceId = NewType("DeviceId", str)
"""Name of a paired device, unique at its coordinator, e.g. ``jetson-nano-1``."""

SampleKey = NewType("SampleKey", bytes)
"""32 bytes: the key of a sample's backbone outputs; see :mod:`.sample`."""

Sha256 = NewType("Sha256", str)
"""Lower-case hexadecimal SHA-256."""
