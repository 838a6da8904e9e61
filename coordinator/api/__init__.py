"""Trains, evaluates, predicts, generates, plans and merges: what the commands do, callable."""
