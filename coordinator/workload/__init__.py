"""Decides which device gets which piece of work now. Pure."""
