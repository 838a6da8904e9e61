"""Chooses the dtype in which hidden states are cached."""

from typing import Literal, TypeAlias

from edge_runtime.contract.adapter import AdapterConfig
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
of 500 lines, both). Groups in int4 would move them by 21 % and cost 0.13 (1.090)."""


def choose_cache_dtype(
    manifest: Manifest, config: AdapterConfig, wanted: CacheChoice
) -> tuple[CacheDtype, tuple[str, ...]]:
    """Chooses a dtype that holds the hidden states which the adapter reads, with notes.

    ``auto`` goes by what the export measured. Language models get int8, where that moves states
    little: a token's states of all layers are what fills a disk. Others get fp16, which is read
    faster in each of their many epochs. States that do not fit fp16 get int8, or else fp32.

    Raises:
        UsageError: fp16 is wanted, but states are known to be beyond it.
    """
    parity, layers = manifest.parity, config.layers
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
                f"take {'int8' if _suits_int8(parity, config) else 'fp32'}",
            )
        return "fp16", ()
    if config.generative and _suits_int8(parity, config):
        return "int8", ()
    if peak * MARGIN > FP16_MAX:
        why = f"{where}, too close to fp16's {FP16_MAX:.0f}"
    elif error > FP16_ERROR:
        why = f"fp16 would move hidden state {worst} by {error:.2%}, too much"
    else:
        return "fp16", ()
    dtype: CacheDtype = "int8" if _suits_int8(parity, config) else "fp32"
    return dtype, (f"the cache is in {dtype}: {why}",)


def _suits_int8(parity: Parity, config: AdapterConfig) -> bool:
    if parity.int8_error is None:
        return False
    return max(parity.int8_error[layer] for layer in config.layers) <= INT8_ERROR
