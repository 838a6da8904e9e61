"""Chooses the dtype in which hidden states are cached."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from edge_runtime.contract.cache_format import FP16_MAX
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import CacheDtype

CacheChoice: TypeAlias = CacheDtype | Literal["auto"]

MARGIN = 2.0
"""Of the largest value at export. The huge activations of language models are much the same
for any text (Sun et al., 2024); where other data has larger ones, its device stops the run."""

FP16_ERROR = 1e-3
"""Most that rounding may move a state, relative to it. Usual states move by 3e-4, whatever
their size; more means that values are too small for fp16, or differ little from one another."""


def choose_cache_dtype(
    manifest: Manifest, layers: Sequence[int], wanted: CacheChoice
) -> tuple[CacheDtype, tuple[str, ...]]:
    """Chooses a dtype that holds the hidden states ``layers``, with notes for the user.

    ``auto`` is fp16 where the states fit it, by what the export measured, else fp32.

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
                "take fp32",
            )
        return "fp16", ()
    if peak * MARGIN > FP16_MAX:
        return "fp32", (f"the cache is in fp32: {where}, too close to fp16's {FP16_MAX:.0f}",)
    if error > FP16_ERROR:
        return "fp32", (
            f"the cache is in fp32: fp16 would move hidden state {worst} by {error:.2%}, too much",
        )
    return "fp16", ()
