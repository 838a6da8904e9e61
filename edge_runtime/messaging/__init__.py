"""Sends messages between devices, with credits that bound what is in flight."""
