"""Options of work that trains nothing."""

from edge_runtime.contract.adapter import TrainingOptions

ANSWERING = TrainingOptions(epochs=0, batch_size=16)
"""A batch is the most samples or prompts of a group."""
