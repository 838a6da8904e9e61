"""Refuses weights in a form of another tool: quantized, or with adapters that are not merged."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.contract.errors import BadInputError
from export.wording import listed

from .weight_files import StoredTensor

_FLOATS = {"F64", "F32", "F16", "BF16"}

_QUANTIZED_SETTINGS = ("quantization_config", "compression_config", "quantization")
_OTHER_TOOLS = {"quantization": "MLX", "compression_config": "compressed-tensors"}

BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|attn\.masked_bias"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)|(encoder|decoder)\.version"
    r"|embed_positions\._float_tensor)$"
)
"""Tensors that old versions of transformers saved and that their models compute now."""

_MASK = re.compile(r"\.attn\.bias$")
"""GPT-2's causal mask, which transformers itself passes over, in GPT-2."""

_ADAPTER = re.compile(
    r"\.lora_|(^|\.)base_layer\.|\.modules_to_save\.|\.original_module\.|^base_model\.model\."
    r"|\.ia3_|\.hada_w|\.lokr_|\.oft_|\.boft_|\.vera_|\.adapters?\.|prompt_embeddings"
)


def check_settings_plain(file: Path, fields: Mapping[str, Any], plain: bool) -> None:
    """Refuses a configuration that says that its weights are quantized.

    Args:
        file: ``config.json``.
        fields: its contents.
        plain: the weight files hold floats only, as after merging or dequantizing.

    Raises:
        BadInputError: names the tool, and what to do.
    """
    for name in _QUANTIZED_SETTINGS:
        if fields.get(name):
            found = fields[name] if isinstance(fields[name], dict) else {}
            method = found.get("quant_method") or _OTHER_TOOLS.get(name)
            by = f" by {method}" if method else ""
            reason = f"says that the weights are quantized{by} ({name})"
            if plain:
                raise BadInputError(
                    f"{file}: {reason}, but they are plain floats; if they are the model, remove "
                    f"{name} from the file"
                )
            raise BadInputError(f"{file}: {reason}, {_ADVICE}")


_ADVICE = (
    "a form that pacplus does not read; export the model that it was made of, and give "
    "--quantize int8 or int4 for small weights"
)


def check_tensors_plain(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuses packed and empty weights, and adapters inside a checkpoint.

    Raises:
        BadInputError: names the first such tensor, and what to do.
    """
    adapters = [name for name in tensors if _ADAPTER.search(name)]
    if adapters:
        raise BadInputError(
            f"{folder}: has adapter weights that are not merged, {listed(adapters)}; load it with "
            "the library that trained it (with peft: merge_and_unload() and save_pretrained()), "
            "and export the merged model"
        )
    empty = [name for name, tensor in tensors.items() if 0 in tensor.shape]
    if empty:
        raise BadInputError(
            f"{folder}: has weights without values, {listed(empty)}, as DeepSpeed leaves them "
            "where it saves without gathering; gather the checkpoint with its zero_to_fp32.py"
        )
    packed = packed_tensors(tensors)
    if packed:
        raise BadInputError(
            f"{folder}: has weights quantized by another tool, {listed(packed)} (the first is "
            f"{tensors[packed[0]].dtype}), {_ADVICE}"
        )


def packed_tensors(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Lists weights that are no plain floats."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.dtype not in _FLOATS and not BUFFERS.search(name) and not _MASK.search(name)
    ]
