"""Chooses the dtype in which hidden states are cached."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from edge_runtime.contract.cache_format import FP16_MAX
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest, Parity
from edge_runtime.contract.messages import CacheDtype

CacheChoice: TypeAlias = CacheDtype | Literal["auto"]

MARGIN = 2.0
"""Of the largest value at export. The huge activations of language models are much the same
for any text (Sun et al., 2024); where other data has larger ones, its device stops the run."""

FP16_ERROR = 1e-3
"""Most that rounding may move a state, relative to it. Usual states move by 3e-4, whatever
their size; more means that values are too small for fp16, or differ little from one another."""


INT8_ERROR = 0.025
"""Most that grouped int8 may move a state, relative to it. It moves those of SmolLM2-135M by 1.4 %
in the mean and 2 % at most, and the held-out loss on gsm8k is that of fp16 (0.956 after 3 epochs
of 500 lines, both), as MiniLM's accuracy on SST-2 is (0.843 over 5 seeds, both). Groups in int4
would move SmolLM2's by 21 % and cost 0.13 (1.090)."""


def choose_cache_dtype(
    manifest: Manifest, layers: Sequence[int], wanted: CacheChoice
) -> tuple[CacheDtype, tuple[str, ...]]:
    """Chooses a dtype that holds the hidden states ``layers``, with notes for the user.

    ``auto`` goes by what the export measured: int8 where that moves states little, for it takes
    half the disk of fp16 and as long to train from; else fp16 where states fit it, else fp32.

    Raises:
        UsageError: fp16 is wanted, but states are known to be beyond it.
    """
    parity = manifest.parity
    if wanted == "fp32" or wanted == "int8":
        return wanted, ()
    if parity.state_max is None or parity.fp16_error is None:
        return "fp16", ()
    largest = max(layers, key=parity.state_max.__getitem__)
    worst = max(layers, key=parity.fp16_error.__getitem__)
    peak, error = parity.state_max[largest], parity.fp16_error[worst]
    where = f"hidden state {largest} of {manifest.model_id} reaches {peak:g}"
    if wanted == "fp16":
        if peak > FP16_MAX:
            raise UsageError(
                f"--cache-dtype fp16: {where}, beyond its {FP16_MAX:.0f}; "
                "give --cache-dtype auto or fp32"
            )
        if error > FP16_ERROR:
            return "fp16", (
                f"--cache-dtype fp16 moves hidden state {worst} by up to {error:.2%}; auto would "
                f"take {'int8' if _suits_int8(parity, layers) else 'fp32'}",
            )
        return "fp16", ()
    if _suits_int8(parity, layers):
        return "int8", ()
    if peak * MARGIN > FP16_MAX:
        return "fp32", (f"the cache is in fp32: {where}, too close to fp16's {FP16_MAX:.0f}",)
    if error > FP16_ERROR:
        return "fp32", (
            f"the cache is in fp32: fp16 would move hidden state {worst} by {error:.2%}, too much",
        )
    return "fp16", ()


def _suits_int8(parity: Parity, layers: Sequence[int]) -> bool:
    if parity.int8_error is None:
        return False
    return max(parity.int8_error[layer] for layer in layers) <= INT8_ERROR
