"""Reads what the operating system says of processor, memory and control groups."""
