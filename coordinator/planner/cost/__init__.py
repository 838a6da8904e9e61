"""Judges a plan: memory, fill time and epoch time, one function a term. Pure."""
