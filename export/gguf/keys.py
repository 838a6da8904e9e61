"""Lists the metadata keys that are known, and what becomes of each.

llama.cpp reads keys of the file's architecture (``llama.block_count``), of the tokenizer, and
``general``; it takes no notice of others. A key that stands in no table here is refused, for it
may change what the model computes.
"""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from edge_runtime.contract.errors import BadInputError
from export.wording import listed

from .reader import GgufFile, Ignores

HARMLESS = (
    *("general.architecture", "general.type", "general.alignment"),
    *("general.file_type", "general.quantization_version", "general.sampling.*"),
    *("general.name", "general.author", "general.version", "general.organization"),
    *("general.finetune", "general.basename", "general.description", "general.quantized_by"),
    *("general.size_label", "general.parameter_count", "general.license", "general.license.*"),
    *("general.url", "general.doi", "general.uuid", "general.repo_url", "general.source.*"),
    *("general.base_model.*", "general.dataset.*", "general.datasets", "general.tags"),
    *("general.languages", "general.converted_by", "general.converted_at"),
    *("quantize.*", "imatrix.*", "mradermacher.*", "split.*"),
)
"""Shell patterns of keys that describe: where a file is from, how it was quantized, how people
like to sample."""

TOKENIZER = (
    *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"),
    *("tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"),
    *("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
    *("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"),
    *("tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"),
    *("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"),
    *("tokenizer.ggml.eos_token_ids", "tokenizer.ggml.add_space_prefix"),
    *("tokenizer.chat_template", "tokenizer.chat_template.*", "tokenizer.chat_templates"),
)
"""Shell patterns of keys that :mod:`.tokenizer` and :mod:`.config` read."""

TOKENIZER_UNUSED = (
    # For text in the middle of code, for masks and for pairs: llama.cpp puts none by itself.
    *("tokenizer.ggml.fim_*_token_id", "tokenizer.ggml.prefix_token_id"),
    *("tokenizer.ggml.suffix_token_id", "tokenizer.ggml.middle_token_id"),
    *("tokenizer.ggml.seperator_token_id", "tokenizer.ggml.mask_token_id"),
    *("tokenizer.ggml.cls_token_id", "tokenizer.ggml.token_type_count"),
    # The tokenizer once more.
    *("tokenizer.huggingface.json", "tokenizer.rwkv.world"),
)
"""Shell patterns of keys of the tokenizer that no text needs."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tokenizer.ggml.add_sep_token": (False,),
    "tokenizer.ggml.remove_extra_whitespaces": (False,),
    "tokenizer.ggml.precompiled_charsmap": ((), []),
    "*.attention.causal": (True,),
    "*.attention.clamp_kqv": (0,),
    "*.attention.max_alibi_bias": (0,),
    "*.attention.scale": (0,),
    "*.attention.shared_kv_layers": (0,),
    "*.embedding_scale": (0, 1),
    "*.expert_count": (0,),
    "*.expert_used_count": (0,),
    "*.leading_dense_block_count": (0,),
    "*.logit_scale": (0, 1),
    "*.n_deepstack_layers": (0,),
    "*.nextn_predict_layers": (0,),
    "*.residual_scale": (0, 1),
    "*.rope.scaling.alpha": (0,),
    "*.rope.scaling.attn_factor": (1,),
    "*.rope.scaling.yarn_attn_factor": (1,),
    "*.rope.scaling.yarn_ext_factor": (1, -1),
    "*.rope.scaling.yarn_log_multiplier": (0,),
    "*.tensor_data_layout": ("Meta AI original pth",),
}
"""Keys that are harmless at the values that llama.cpp takes for absent, and refused at others."""

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "tokenizer.ggml.model": str,
    "tokenizer.ggml.pre": str,
    "tokenizer.ggml.add_*": bool,
    "tokenizer.ggml.*_token_id": int,
    "tokenizer.ggml.*": list,
    "tokenizer.chat_templates": list,
    "tokenizer.*": str,
    "*.rope.scaling.type": str,
    "*.attention.sliding_window_pattern": (int, list),
    "*": (int, float),
}
"""Of values that are read; the first pattern that a key matches counts."""

_INERT = (
    "rope.scaling.finetuned",  # says how the model was made
    "pooling_type",  # of embeddings, which the task's own pooling replaces
)
_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
_RMS = _SIZES | {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_READ = ("vocab_size",)
_ROPE = (
    *("rope.freq_base", "rope.dimension_count", "rope.scale_linear", "rope.scaling.type"),
    *("rope.scaling.factor", "rope.scaling.original_context_length"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
)
_HEAD = ("attention.key_length", "attention.value_length")
_WINDOW = ("attention.sliding_window", "attention.sliding_window_pattern")
_CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The traits of one of llama.cpp's architectures.

    Attributes:
        model_type: transformers' name.
        fields: key without the architecture's name -> field of transformers' configuration.
        read: keys that :mod:`.config` and :mod:`.rope` read.
        optional: of ``fields``, those that may be missing; transformers' default holds.
        rotary: positions are rotary embeddings; a table otherwise.
        permuted: rows of queries and keys are in the order of Meta's checkpoints.
        norm_shift: what llama.cpp adds to the weights of the norms.
        transposed: GGUF tensors of a layer that transformers holds the other way round.
    """

    model_type: str
    fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: _RMS)
    read: tuple[str, ...] = (*_READ, *_ROPE, *_HEAD)
    optional: tuple[str, ...] = ("attention.head_count_kv",)
    rotary: bool = True
    permuted: bool = False
    norm_shift: float = 0.0
    transposed: tuple[str, ...] = ()


ARCHITECTURES = {
    "gemma": Architecture(model_type="gemma", norm_shift=1.0),
    "gemma2": Architecture(
        model_type="gemma2",
        fields=_RMS | _CAPS,
        optional=("attention.head_count_kv", *_CAPS),
        read=(*_READ, *_ROPE, *_HEAD, *_WINDOW),
        norm_shift=1.0,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        fields=_RMS | {"final_logit_softcapping": "final_logit_softcapping"},
        optional=("attention.head_count_kv", "final_logit_softcapping"),
        read=(*_READ, *_ROPE, *_HEAD, *_WINDOW, "rope.freq_base_swa"),
        norm_shift=1.0,
    ),
    "gpt2": Architecture(
        model_type="gpt2",
        fields={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        read=(*_READ, "attention.head_count_kv"),
        optional=(),
        rotary=False,
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
    "llama": Architecture(model_type="llama", permuted=True),
    "phi2": Architecture(
        model_type="phi", fields=_SIZES | {"attention.layer_norm_epsilon": "layer_norm_eps"}
    ),
    "qwen2": Architecture(model_type="qwen2"),
    "qwen3": Architecture(model_type="qwen3"),
}
"""By llama.cpp's name. Mistral, SmolLM, TinyLlama and others are ``llama`` there."""


def architecture_of(file: GgufFile) -> Architecture:
    """Looks up the architecture's row.

    Raises:
        BadInputError: it is not in the table; names those that are.
    """
    if file.architecture not in ARCHITECTURES:
        raise BadInputError(
            f"{file.path}: GGUF files of architecture {file.architecture!r} are not read; those "
            f"of {', '.join(sorted(ARCHITECTURES))} are"
        )
    return ARCHITECTURES[file.architecture]


def check_keys(file: GgufFile, ignores: Ignores) -> None:
    """Refuses keys that are not known, or not with their value, unless they are ignored.

    Raises:
        BadInputError: names them and the way out.
    """
    row = architecture_of(file)
    own = {f"{file.architecture}.{key}" for key in (*row.fields, *row.read, *_INERT)}
    _check_types(file, {f"{file.architecture}.{key}" for key in row.read})
    window = file.get("attention.sliding_window", 0)
    if not 0 < window < file.get("context_length", 0):
        own.add(f"{file.architecture}.attention.sliding_window")  # everything is inside it
    odd = [
        key
        for key, value in file.metadata.items()
        if key not in own and not _known(key, value) and not ignores(key)
    ]
    if not odd:
        return
    named = listed((f"{key} = {_short(file.metadata[key])}" for key in odd), 5)
    raise BadInputError(
        f"{file.path}: {named}: not understood, and may change what the model computes; "
        "export its Hugging Face folder instead, or, where it does not matter, say so with "
        f"--ignore {odd[0]}"
    )


def _check_types(file: GgufFile, read: set[str]) -> None:
    for key, value in file.metadata.items():
        if key not in read and not _matches(key, TOKENIZER):
            continue
        wanted = next(kind for pattern, kind in _TYPES.items() if fnmatch.fnmatchcase(key, pattern))
        if not isinstance(value, wanted):
            raise BadInputError(
                f"{file.path}: {key} is {_short(value)}, of another type than llama.cpp reads; "
                "convert the model again"
            )


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _known(key: str, value: Any) -> bool:
    for pattern, values in NEUTRAL.items():
        if fnmatch.fnmatchcase(key, pattern):
            return value in values
    return _matches(key, (*HARMLESS, *TOKENIZER, *TOKENIZER_UNUSED))


def _short(value: Any) -> str:
    text = repr(value[:4] if isinstance(value, list) else value)
    return text if len(text) <= 40 else f"{text[:40]}..."
