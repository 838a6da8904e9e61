"""Decides which device owns which sample. Pure."""
