"""Counts how large an adapter is, from its shape alone."""

from .adapter import AdapterConfig

OPTIMIZER_COPIES = 5
"""Of a parameter: itself, gradient, two moments, what is exchanged."""


def count_parameters(config: AdapterConfig) -> int:
    """Counts an adapter's matrices; biases and gates are not worth knowing here."""
    width, hidden = config.width, config.hidden_size
    block = 2 * config.feed_forward_ratio * width**2
    if config.kind == "attention":
        block += 4 * width**2
    blocks = len(config.layers) - len(config.stacks)
    head = 0 if config.generative else (config.head_features + config.comparison_features)
    return (
        len(config.layers) * hidden * width
        + blocks * block
        + width * hidden
        + head * config.num_outputs
    )
