"""Turns the rotary embeddings of a file into transformers' parameters.

Llama 3 scales each frequency by a factor of its own, and llama.cpp keeps the factors as a tensor,
``rope_freqs.weight``, where transformers keeps the four numbers that they were made from.
"""

import math
from typing import Any

import numpy as np

from edge_runtime.contract.errors import BadInputError

from .reader import Array, GgufFile

FACTORS = "rope_freqs.weight"
_THETA = 10_000.0  # llama.cpp's, where a file says none
_PRECISION = 1e-5  # the factors are float32
_LLAMA3 = (1.0, 4.0, 8192.0)


def rope_parameters(file: GgufFile, rotated: int) -> dict[str, Any]:
    """Makes transformers' ``rope_parameters`` for ``rotated`` channels.

    Raises:
        BadInputError: transformers has no such scaling.
    """
    theta = float(file.get("rope.freq_base", _THETA))
    base = {"rope_theta": theta}
    kind = file.get("rope.scaling.type", "linear")
    factor = float(file.get("rope.scaling.factor", file.get("rope.scale_linear", 0)) or 1)
    if not (0 < theta < math.inf and 0 < factor < math.inf):
        raise BadInputError(
            f"{file.path}: {file.architecture}.rope.freq_base is {theta:g} and the factor of its "
            f"scaling {factor:g}; both must be numbers above 0"
        )
    if kind not in ("none", "linear", "yarn"):
        raise BadInputError(
            f"{file.path}: {file.architecture}.rope.scaling.type is {kind!r}; none, linear and "
            "yarn can be read"
        )
    scaled = kind != "none" and factor != 1
    if FACTORS in file.tensors:
        if scaled:
            raise BadInputError(
                f"{file.path}: has both {FACTORS} and {kind} scaling, which transformers has not"
            )
        return base | _of_factors(file, theta, rotated)
    if not scaled:
        return base | {"rope_type": "default"}
    if kind == "linear":
        return base | {"rope_type": "linear", "factor": factor}
    length = file.get("rope.scaling.original_context_length", file.get("context_length"))
    return base | {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": int(length),
        "beta_fast": float(file.get("rope.scaling.yarn_beta_fast", 32)),
        "beta_slow": float(file.get("rope.scaling.yarn_beta_slow", 1)),
    }


def _of_factors(file: GgufFile, theta: float, rotated: int) -> dict[str, Any]:
    """Finds the four numbers of Llama 3's scaling that give the factors of the file."""
    factors = file.values(FACTORS).astype(np.float64).reshape(-1)
    waves = 2 * math.pi * theta ** (np.arange(0, rotated, 2) / rotated)
    factor = float(factors.max(initial=1.0))
    if factors.shape == waves.shape:
        if np.allclose(factors, 1, rtol=_PRECISION):
            return {"rope_type": "default"}
        for low, high, length in (_LLAMA3, *_solved(factors, waves, factor)):
            made = llama3_factors(waves, factor, low, high, length)
            if np.allclose(made, factors, rtol=_PRECISION):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": round(length),
                }
    raise BadInputError(
        f"{file.path}: the factors in {FACTORS} are not those of Llama 3's scaling, which is the "
        "only one that can be read; export the model's Hugging Face folder instead"
    )


def llama3_factors(waves: Array, factor: float, low: float, high: float, length: float) -> Array:
    """Computes what Llama 3 divides the frequencies by; after convert_hf_to_gguf.py.

    Args:
        waves: tokens in a turn, of each frequency.
        factor: of the long waves.
        low: turns in ``length`` up to which a wave is long.
        high: turns in ``length`` from which a wave is short, and stays as it is.
        length: of the context before the scaling, in tokens.
    """
    smooth = np.clip((length / waves - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))


def _solved(factors: Array, waves: Array, factor: float) -> list[tuple[float, float, float]]:
    """Solves for ``low``, ``high`` and ``length``, of which one is free; two choices of it.

    The smooth part is a line over ``1 / waves``. Two waves on it make it known; with fewer, any
    line will do that passes between the long waves and the short ones.
    """
    long, short = factors > factor * (1 - _PRECISION), factors < 1 + _PRECISION
    turns, between = 1 / waves, ~long & ~short
    if not long.any():
        return []
    smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
    if between.sum() > 1:
        slope, offset = np.polyfit(turns[between], smooth, 1)
    else:
        last = turns[long].max()
        first = turns[short].min(initial=10 * turns.max())
        middle = turns[between][0] if between.any() else (first + last) / 2
        slope = 2 / min(first - middle, middle - last)
        offset = (smooth[0] if between.any() else 0.5) - slope * middle
    if slope <= 0 or offset >= 0:
        return []
    scale = _LLAMA3[2] / slope
    return [
        (1.0, float(1 - 1 / offset), float(round(-slope / offset))),
        (float(-offset * scale), float((1 - offset) * scale), _LLAMA3[2]),
    ]
