"""Faults on real processes: what they cost a run, and that it finishes all the same."""
