"""Refuses settings of ``config.json`` that nothing reads, though they say what is computed.

transformers keeps every unknown setting as an attribute and goes on without it: BERT's
relative positions, ALiBi or a model's own code are gone without a word. So a setting must be
one that the configuration class declares, one that the model's source reads, one of
generation, or one of the table below.
"""

import dataclasses
import fnmatch
import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import GenerationConfig

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import Task

from .families import Stack

_HARMLESS_NAMES = """
_name_or_path name_or_path architectures auto_map model_type torch_dtype dtype language license
transformers_version transformers.js_config tokenizer_class finetuning_task task_specific_params
prefix unsloth_version unsloth_fixed base_model sentence_transformers is_llama_config
is_qwen2_config is_mistral_config trl_version name sbert_ce_default_activation_function save_step
replacing_rate student_encoder_layers student_decoder_layers keys_to_ignore_at_inference
gradient_checkpointing use_cache use_bfloat16 torchscript xla_device tf_legacy_loss
neftune_noise_alpha repad_logits_with_grad reference_compile attn_implementation
use_flash_attention use_flash_attn layerdrop init_std initializer_range initializer_factor
pretraining_tp router_aux_loss_coef loss_type label_smoothing
id2label label2id num_labels problem_type directionality generator_size classifier_pooling
tie_weights_ output_past output_attentions output_hidden_states return_dict use_return_dict
predict_special_tokens add_pooling_layer is_decoder
n_special n_ctx n_positions max_sequence_length seq_length model_max_length max_seq_len
original_max_position_embeddings cache_implementation
force_bos_token_to_be_generated generation_config diversity_penalty num_beam_groups penalty_alpha
remove_invalid_values low_memory
"""
"""By line groups: what a tool noted; training and memory; heads and poolers, which a bundle
does not have; lengths, taken from the tables of weights; generation, under older names."""

_HARMLESS = frozenset(_HARMLESS_NAMES.split())
_HARMLESS_PATTERNS = ("_*", "pooler_*", "summary_*", "*_token_id", "*_token_ids", "*dropout*")

_HARMLESS_VALUES: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "tie_encoder_decoder": (False,),
    "add_bias_logits": (False,),
    "add_final_layer_norm": (False,),
    "normalize_before": (False,),
    "normalize_embedding": (True,),
    "static_position_embeddings": (False,),
    "extra_pos_embeddings": (2,),
    "do_blenderbot_90_layernorm": (False,),
    "layernorm_embedding": (True,),
    "is_causal": (True,),
    "use_sliding_window": (False,),
    "attention_type": ("original_full",),
    "alibi": (False,),
    "use_alibi": (False,),
    "multi_query": (False,),
    "parallel_attn": (False,),
    "logit_scale": (1, 1.0),
    "embedding_multiplier": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
}
"""Settings of older configurations with the values that transformers computes without them."""

_NOT_APPLIED: dict[tuple[str, str], tuple[Any, ...]] = {
    ("gemma3_text", "attn_logit_softcapping"): (None,),
    ("gemma2", "use_bidirectional_attention"): (None, False),
}
"""Settings that a class declares, and the values that its model computes; found by trying."""

_STACKS: dict[Stack, dict[str, bool]] = {
    "encoder": {"is_decoder": False, "add_cross_attention": False, "is_encoder_decoder": False},
    "decoder": {"add_cross_attention": False, "is_encoder_decoder": False},
    "encoder-decoder": {"is_decoder": False, "is_encoder_decoder": True},
}
"""Settings that make another kind of stack, and their values in each that is exported."""

_SYNONYMS = (
    {"hidden_act", "hidden_activation", "activation_function"},
    {"sliding_window", "sliding_window_size"},
    {"norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"},
)
"""Names for one thing, of which a class reads one; others may be there if they say the same."""

_ROPE_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_ROPE: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
    "yarn": {
        *("factor", "original_max_position_embeddings", "attention_factor", "truncate"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    },
}
"""Kinds of rotary positions and their settings. Missing are those of transformers whose
frequencies depend on the longest sample of a batch (dynamic, longrope): states could not be
cached, for a sample's would depend on its neighbours."""


def is_ignored(name: str, ignored: Sequence[str]) -> bool:
    """Tells whether ``--ignore`` covers a setting or a weight: its name, a parent or a pattern."""
    return any(fnmatch.fnmatchcase(name, each) or name.startswith(f"{each}.") for each in ignored)


def check_settings(
    file: Path, fields: Mapping[str, Any], config: Any, stack: Stack, ignored: Sequence[str]
) -> None:
    """Refuses what nothing reads, or what makes another model of the architecture.

    Args:
        file: ``config.json``, for messages.
        fields: its contents.
        config: what transformers has made of it.
        stack: of the model's family.
        ignored: names that the user knows not to matter.

    Raises:
        BadInputError: names the setting and its value.
    """
    given = {
        name: value
        for name, value in fields.items()
        if value not in (None, {}, []) and not is_ignored(name, ignored)
    }
    code = _own_code(given.get("auto_map"))
    if code:
        raise BadInputError(
            f"{file}: auto_map names code of the model's own ({code}), which is not run; if "
            f"transformers' {config.model_type} computes the same, say so with --ignore auto_map"
        )
    _check_aliases(file, given, config)
    for name, value in _STACKS[stack].items():
        if name in given and bool(given[name]) is not value:
            raise BadInputError(
                f"{file}: {name} is {json.dumps(given[name])}; {config.model_type} models are "
                f"exported as {stack}, with {name} {json.dumps(value)} only"
            )
    known = _settings_read(config) | _STACKS[stack].keys()
    for name, value in given.items():
        if not _is_read(name, value, config, known):
            reason = f"transformers {transformers.__version__} computes nothing with it"
            raise _refused(file, name, value, reason)
    _check_rope(file, given, config)


def check_task_settings(file: Path, config: Any, task: Task) -> None:
    """Refuses a language model whose tokens see those after them.

    Raises:
        BadInputError: names the setting.
    """
    if task == "causal-lm" and getattr(config, "use_bidirectional_attention", None):
        raise BadInputError(
            f"{file}: use_bidirectional_attention lets tokens see those after them, so the model "
            "cannot write text; use --task classification or regression"
        )


def _refused(file: Path, name: str, value: Any, reason: str) -> BadInputError:
    return BadInputError(
        f"{file}: the setting {name} is {json.dumps(value)[:80]}, and {reason}, so another model "
        f"would be computed; if it does not matter, say so with --ignore {name}"
    )


def _own_code(auto_map: Any) -> str:
    if not isinstance(auto_map, dict):
        return ""
    names = [str(code) for kind, code in auto_map.items() if "Tokenizer" not in kind]
    return names[-1] if names else ""


def _check_aliases(file: Path, given: Mapping[str, Any], config: Any) -> None:
    for alias, name in config.attribute_map.items():
        if alias in given and name in given and given[alias] != given[name]:
            raise BadInputError(
                f"{file}: {name} is {given[name]} and {alias} is {given[alias]}, which mean the "
                "same setting; remove the wrong one"
            )


def _is_read(name: str, value: Any, config: Any, known: frozenset[str]) -> bool:
    if (config.model_type, name) in _NOT_APPLIED:
        return value in _NOT_APPLIED[config.model_type, name]
    if name in known or name in _HARMLESS:
        return True
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in _HARMLESS_PATTERNS):
        return True
    for names in _SYNONYMS:
        if name in names:
            return any(getattr(config, other, None) == value for other in names - {name})
    harmless = _HARMLESS_VALUES.get(name, ())
    return any(value == each and type(value) is type(each) for each in harmless)


def _settings_read(config: Any) -> frozenset[str]:
    """Names that the configuration declares or the source of its model reads."""
    kind = type(config)
    declared = declared_settings(kind)
    aliases = {*config.attribute_map, *config.attribute_map.values()}
    modeling = importlib.import_module(kind.__module__.replace("configuration_", "modeling_"))
    source = inspect.getsource(modeling)
    read = set(re.findall(r"\bconfig\.(\w+)", source))
    read |= set(re.findall(r'getattr\((?:self\.)?config, "(\w+)"', source))
    read |= set(re.findall(r'kwargs\.(?:get|pop|setdefault)\(\s*"(\w+)"', inspect.getsource(kind)))
    if "rope_parameters" in declared:
        read |= {"rope_theta", "rope_scaling", "partial_rotary_factor"}
    generation = vars(GenerationConfig()).keys() | GenerationConfig._get_default_generation_params()
    return frozenset(declared | aliases | read | generation)


def declared_settings(kind: type[Any]) -> set[str]:
    """Lists the settings of a configuration class, which is a dataclass since transformers 5.4."""
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    makers = [vars(each)["__init__"] for each in kind.__mro__[:-1] if "__init__" in vars(each)]
    taken = {name for maker in makers for name in inspect.signature(maker).parameters}
    return taken | set(re.findall(r"\bself\.(\w+) = ", inspect.getsource(kind)))


def _check_rope(file: Path, given: Mapping[str, Any], config: Any) -> None:
    found = getattr(config, "rope_parameters", None)
    if not isinstance(found, dict):
        return
    scaling, parameters = given.get("rope_scaling"), given.get("rope_parameters")
    if scaling and parameters and scaling != parameters:
        raise BadInputError(
            f"{file}: rope_scaling and rope_parameters say different things; remove the wrong one"
        )
    parts = {key: part for key, part in found.items() if isinstance(part, dict)}
    for key, part in (parts or {"": found}).items():
        kind = part.get("rope_type", part.get("type", "default"))
        where = f"rope_parameters.{key}".rstrip(".")
        if kind not in _ROPE:
            raise BadInputError(
                f"{file}: rotary positions of type {kind!r} are not supported; supported are "
                f"{', '.join(sorted(_ROPE))}"
            )
        for name in sorted(set(part) - _ROPE_COMMON - _ROPE[kind]):
            if part[name] is not None:
                reason = f"rotary positions of type {kind!r} have no such setting"
                raise _refused(file, f"{where}.{name}", part[name], reason)
        theta = given.get("rope_theta")
        if theta is not None and not parts and part.get("rope_theta") != theta:
            raise BadInputError(
                f"{file}: rope_theta is {theta} and {part['rope_theta']} in rope_parameters; "
                "remove the wrong one"
            )
