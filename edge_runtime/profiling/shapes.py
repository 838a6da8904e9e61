"""Chooses shapes to measure that this device's memory has room for."""

from collections.abc import Callable, Mapping

from edge_runtime.contract.activations import block_bytes
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import ProfileRequest
from edge_runtime.system.usage import resident_bytes, usable_memory_bytes

MEMORY_USE = 0.7
"""Part of the free memory that a measurement may take: estimates are not exact, and what was
freed is not all given back."""

Lengths = Mapping[Stream, int]


def room_bytes() -> int:
    """Computes what a measurement may take now."""
    return max(0, int(MEMORY_USE * (usable_memory_bytes() - resident_bytes())))


def usual_tokens(request: ProfileRequest) -> dict[Stream, int]:
    """Gives the lengths of the longest sample that is no outlier."""
    return {**request.max_tokens, **request.usual_tokens}


def sample_bytes(request: ProfileRequest, lengths: Lengths) -> int:
    """Estimates what one sample of these lengths holds in the largest block."""
    held = block_bytes(lengths, hidden_size=request.hidden_size, num_heads=request.num_heads)
    return max(int(each) for each in held.values())


def fitting_lengths(
    wanted: Lengths, held: Callable[[Lengths], int], room: int
) -> dict[Stream, int]:
    """Halves lengths until one sample of them fits; ``held`` says what one holds."""
    lengths = dict(wanted)
    while held(lengths) > room and max(lengths.values()) > 1:
        lengths = {stream: max(1, tokens // 2) for stream, tokens in lengths.items()}
    return lengths
