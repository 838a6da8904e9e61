"""Reads and writes the run folder."""
