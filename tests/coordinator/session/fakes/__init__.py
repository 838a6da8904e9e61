"""Devices that keep to the protocol without sockets, threads or models."""
