"""Makes transformers' configuration out of a file's metadata.

Where transformers and llama.cpp differ in what a missing key means, llama.cpp is followed: the
file was made for it.
"""

import math
from typing import Any

from transformers import AutoConfig

from edge_runtime.contract.errors import BadInputError
from export.wording import one_line

from .keys import Architecture, architecture_of, check_keys
from .reader import GgufFile, Ignores
from .rope import rope_parameters

_EMBEDDINGS = "token_embd.weight"
_OUTPUT = "output.weight"
_IDS = {"bos": "bos_token_id", "padding": "pad_token_id"}
_ENDS = ("eos", "eot", "eom")
_NO_ID = 0xFFFFFFFF  # what some write where there is no such token
# Gemma's largest models scale their scores by the width a head would have; by layers.
_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
_WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}
_LOCAL_THETA = 10_000.0


def read_config(file: GgufFile, ignores: Ignores = lambda _: False) -> Any:
    """Makes the configuration in transformers' form.

    Args:
        file: where from.
        ignores: keys that need not be known.

    Raises:
        BadInputError: the architecture is not supported, or a key is missing, unknown or has a
            value that transformers has no setting for.
    """
    row = architecture_of(file)
    check_keys(file, ignores)
    fields = {
        field: value
        for key, field in row.fields.items()
        if (value := _number(file, row, key)) is not None
    }
    fields |= {
        "vocab_size": _vocabulary(file),
        "tie_word_embeddings": _OUTPUT not in file.tensors,
        **_special_ids(file),
    }
    if row.model_type == "gpt2":
        _check_equal(file, "attention.head_count_kv", fields["n_head"])
    if row.rotary:
        fields |= _attention(file, row, fields)
    if file.architecture in _WINDOW_PERIOD:
        fields |= _gemma(file, fields)
    try:
        return AutoConfig.for_model(row.model_type, **fields)
    except Exception as error:
        # Checks of settings raise what they like.
        raise BadInputError(
            f"{file.path}: transformers refuses its settings: {one_line(error)}"
        ) from None


def _number(file: GgufFile, row: Architecture, key: str) -> Any:
    value = file.get(key)
    if value is None and key not in row.optional:
        raise BadInputError(
            f"{file.path}: has no {file.architecture}.{key}; convert the model again"
        )
    if value is None and key == "attention.head_count_kv":
        return file.get("attention.head_count")
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise BadInputError(
                f"{file.path}: {file.architecture}.{key} differs between layers, which "
                f"{row.model_type} of transformers has no setting for"
            )
        value = value[0]
    if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
        raise BadInputError(
            f"{file.path}: {file.architecture}.{key} is {value!r}, not a number above 0; convert "
            "the model again"
        )
    return value


def _vocabulary(file: GgufFile) -> int:
    if _EMBEDDINGS not in file.tensors:
        raise BadInputError(f"{file.path}: has no tensor {_EMBEDDINGS}; convert the model again")
    rows = int(file.tensors[_EMBEDDINGS].shape[-1])
    _check_equal(file, "vocab_size", rows)
    tokens = len(file.metadata.get("tokenizer.ggml.tokens", ()))
    if tokens > rows:
        raise BadInputError(
            f"{file.path}: tokenizer.ggml.tokens has {tokens} tokens, {_EMBEDDINGS} has {rows} "
            "rows; convert the model again"
        )
    return rows


def token_id(file: GgufFile, role: str) -> int | None:
    """Looks up the id of a special token; None where the file has none.

    Raises:
        BadInputError: there is no token with that id.
    """
    key = f"tokenizer.ggml.{role}_token_id"
    found = file.metadata.get(key)
    if found is None or found == _NO_ID or found < 0:
        return None
    return _existing(file, key, found)


def _existing(file: GgufFile, key: str, found: int) -> int:
    count = len(file.metadata.get("tokenizer.ggml.tokens", ()))
    if count and found >= count:  # without any, the tokenizer is refused
        raise BadInputError(f"{file.path}: {key} is {found}, but there are {count} tokens only")
    return int(found)


def _special_ids(file: GgufFile) -> dict[str, Any]:
    ids = {field: token_id(file, role) for role, field in _IDS.items()}
    key = "tokenizer.ggml.eos_token_ids"
    listed = [_existing(file, key, found) for found in file.metadata.get(key, ())]
    ends = [found for role in _ENDS if (found := token_id(file, role)) is not None]
    ends = list(dict.fromkeys((*ends, *listed)))
    return {**ids, "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None)}


def _attention(file: GgufFile, row: Architecture, fields: dict[str, Any]) -> dict[str, Any]:
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    channels = int(file.get("attention.key_length", hidden // heads))
    _check_equal(file, "attention.value_length", channels)
    rotated = int(file.get("rope.dimension_count", channels))
    found: dict[str, Any] = {"rope_parameters": rope_parameters(file, rotated)}
    if row.model_type == "phi":
        # The only one of them that turns a part of the channels; it has no head_dim of its own.
        _check_equal(file, "attention.key_length", hidden // heads)
        found["rope_parameters"]["partial_rotary_factor"] = rotated / channels
        return found
    _check_equal(file, "rope.dimension_count", channels)
    found["head_dim"] = channels
    if row.model_type == "llama":
        found["attention_bias"] = any(
            f"blk.0.attn_{name}.bias" in file.tensors for name in ("q", "k", "v", "output")
        )
        found["mlp_bias"] = any(
            f"blk.0.ffn_{name}.bias" in file.tensors for name in ("gate", "up", "down")
        )
    return found


def _gemma(file: GgufFile, fields: dict[str, Any]) -> dict[str, Any]:
    """Adds what the files of Gemma 2 and 3 leave to llama.cpp's code."""
    window = file.get("attention.sliding_window")
    if not window:
        raise BadInputError(
            f"{file.path}: has no {file.architecture}.attention.sliding_window; convert the "
            "model again"
        )
    layers, hidden = fields["num_hidden_layers"], fields["hidden_size"]
    largest = layers == _LARGEST_GEMMA[file.architecture]
    found = {
        "sliding_window": int(window),
        "layer_types": _layer_types(file, layers),
        "query_pre_attn_scalar": hidden // fields["num_attention_heads"]
        if largest
        else fields["head_dim"],
    }
    if file.architecture == "gemma3":
        local = {"rope_type": "default", "rope_theta": file.get("rope.freq_base_swa", _LOCAL_THETA)}
        found["rope_parameters"] = {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": local,
        }
    return found


def _layer_types(file: GgufFile, layers: int) -> list[str]:
    """Tells the layers that see a window only: listed, or all but the last of each period."""
    pattern = file.get("attention.sliding_window_pattern", _WINDOW_PERIOD[file.architecture])
    if isinstance(pattern, list):
        local = [bool(value) for value in pattern]
    else:
        local = [pattern > 0 and layer % pattern < pattern - 1 for layer in range(layers)]
    if len(local) != layers:
        raise BadInputError(
            f"{file.path}: {file.architecture}.attention.sliding_window_pattern has {len(local)} "
            f"entries for {layers} layers"
        )
    return ["sliding_attention" if windowed else "full_attention" for windowed in local]


def _check_equal(file: GgufFile, key: str, wanted: int) -> None:
    """Refuses a value that transformers can only have as another one says."""
    value = file.get(key, wanted)
    if value != wanted:
        raise BadInputError(
            f"{file.path}: {file.architecture}.{key} is {value}, which does not go with the "
            f"{wanted} of its other settings and tensors"
        )
