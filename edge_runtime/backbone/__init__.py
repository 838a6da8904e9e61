"""Serves stages of the frozen model."""
