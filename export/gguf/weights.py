"""Reads the tensors of a file under transformers' names; every one of them, or it is refused."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from edge_runtime.contract.errors import BadInputError
from export.wording import listed

from .keys import Architecture, architecture_of
from .reader import Array, GgufFile, Ignores
from .rope import FACTORS

_HEAD = "lm_head.weight"
_OUTPUT = "output.weight"


def load_weights(file: GgufFile, config: Any, kind: Any, ignores: Ignores = lambda _: False) -> Any:
    """Loads the model with its weights, and returns transformers' information about loading it.

    Args:
        file: where from.
        config: of the file.
        kind: transformers' Auto class; without a head, the file's is left out.
        ignores: tensors that need not be read.

    Raises:
        BadInputError: as :func:`read_weights`.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        wanted = kind.from_config(config)
    weights = read_weights(file, model, ignores)
    if not isinstance(wanted, type(model)):
        weights.pop(_HEAD, None)
    # The class by itself takes weights from memory; the Auto class does not.
    return type(wanted).from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
    )


def read_weights(file: GgufFile, model: Any, ignores: Ignores) -> dict[str, torch.Tensor]:
    """Reads the state dict of a language model, float32.

    Args:
        file: where from.
        model: with the configuration of the file; its parameters may be on ``meta``.
        ignores: tensors that need not be read.

    Raises:
        BadInputError: a tensor is missing, left over, of another shape, of a type that cannot be
            read, or has NaN or Inf.
    """
    wanted = _stored_names(file, model)
    rest = [name for name in file.tensors if name not in {*wanted, FACTORS} and not ignores(name)]
    fused = _fused(file, wanted, rest)
    missing = [name for name in wanted if name not in file.tensors and name not in fused]
    variant = (
        f"it is damaged, or of a variant of {file.architecture} that is not supported: export its "
        "Hugging Face folder instead"
    )
    if rest:
        raise BadInputError(
            f"{file.path}: has {_named(rest)}, which nothing in the model reads; {variant}, or, "
            f"where it does not matter, say so with --ignore {rest[0]}"
        )
    if missing:
        raise BadInputError(f"{file.path}: lacks {_named(missing)}; {variant}")
    row, parameters = architecture_of(file), model.state_dict()
    found = {}
    for stored, name in wanted.items():
        values = fused[stored] if stored in fused else file.values(stored)
        values = _as_transformers(values, stored, row, model.config)
        shape = tuple(parameters[name].shape)
        if values.shape != shape:
            raise BadInputError(
                f"{file.path}: tensor {stored} is {_by(values.shape)}, by the file's own settings "
                f"it must be {_by(shape)}"
            )
        found[name] = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return found


def _stored_names(file: GgufFile, model: Any) -> dict[str, str]:
    """Maps llama.cpp's name of each parameter to transformers'."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    (architecture,) = (key for key, value in MODEL_ARCH_NAMES.items() if value == file.architecture)
    names = get_tensor_name_map(architecture, model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    found = {}
    for name in model.state_dict():
        if name == _HEAD and tied:
            continue
        # Gemma's heads are always tied in llama.cpp, so the map lacks them.
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        found[stored or (_OUTPUT if name == _HEAD else name)] = name
    return found


def _fused(file: GgufFile, wanted: dict[str, str], rest: list[str]) -> dict[str, Array]:
    """Cuts maps of queries, keys and values that are one tensor, as of early Phi-2 files."""
    found: dict[str, Array] = {}
    for name in [name for name in rest if ".attn_qkv." in name]:
        parts = [name.replace("attn_qkv", f"attn_{part}") for part in "qkv"]
        if any(part not in wanted or part in file.tensors for part in parts):
            continue
        found |= zip(parts, np.array_split(file.values(name), 3), strict=True)
        rest.remove(name)
    return found


def _as_transformers(values: Array, stored: str, row: Architecture, config: Any) -> Array:
    """Undoes what convert_hf_to_gguf.py did to the values."""
    kind = stored.split(".")[-2]
    if row.norm_shift and stored.endswith("norm.weight"):
        values = values - np.float32(row.norm_shift)
    elif kind in row.transposed and values.ndim == 2:
        values = values.T
    elif row.permuted and kind in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
        if values.shape[0] % (2 * heads) == 0:
            # Pairs of channels lie side by side in the file, half a head apart in transformers.
            pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
    return values


def _named(tensors: list[str]) -> str:
    return f"{'tensor' if len(tensors) == 1 else 'tensors'} {listed(tensors, 5)}"


def _by(shape: tuple[int, ...]) -> str:
    return " by ".join(map(str, shape))
