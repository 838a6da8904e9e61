"""Identifier types of devices and files."""

from typing import NewType

DeviceId = NewType("DeviceId", str)
"""Name of a paired device, unique at its coordinator, e.g. ``jetson-nano-1``."""

Sha256 = NewType("Sha256", str)
"""Lower-case hexadecimal SHA-256."""
