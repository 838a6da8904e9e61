"""Decides what happens in which order: events and the time go in, actions come out. Pure."""
