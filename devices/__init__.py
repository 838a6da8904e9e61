"""A catalogue of edge devices, and their emulation on one machine."""
