"""Measures what this device can do: blocks, training, data handling, links."""
