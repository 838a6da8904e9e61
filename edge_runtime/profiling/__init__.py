"""Measures this device: blocks, training, data handling, links."""
