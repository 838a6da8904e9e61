"""Runs a device: its process, its main thread and its compute thread."""
