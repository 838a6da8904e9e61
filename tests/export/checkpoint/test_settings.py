"""Settings that nothing reads are refused; those of published models are no false alarm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.families import FAMILIES
from export.checkpoint.quiet import quiet
from export.checkpoint.settings import check_settings, check_task_settings, declared_settings
from tests.models import config_of

FILE = Path("config.json")

_OLD_LLAMA = {"pretraining_tp": 1, "rope_scaling": None, "rope_theta": 10000.0}
_QWEN = {
    "max_window_layers": 2,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_mrope": False,
    "use_sliding_window": False,
    "_attn_implementation_autoset": True,
}

# What config.json of published models has besides what the class declares, by memory of them.
PUBLISHED = [
    ("bert", {"gradient_checkpointing": False, "position_embedding_type": "absolute"}),
    ("bert", {"classifier_dropout": None, "pruned_heads": {}, "output_past": True}),
    (
        "bert",  # multilingual
        {
            "directionality": "bidi",
            "pooler_fc_size": 768,
            "pooler_num_attention_heads": 12,
            "pooler_num_fc_layers": 3,
            "pooler_size_per_head": 128,
            "pooler_type": "first_token_transform",
        },
    ),
    ("bert", {"finetuning_task": "sst-2", "id2label": {"0": "n", "1": "p"}, "torchscript": False}),
    ("bert", {"sentence_transformers": {"activation_fn": "x", "version": "4.1.0"}}),
    ("roberta", {"position_embedding_type": "absolute", "use_cache": True, "dropout": 0.1}),
    ("xlm-roberta", {"output_past": True, "position_embedding_type": "absolute"}),
    ("distilbert", {"tie_weights_": True, "output_past": True, "max_length": 512}),
    ("electra", {"generator_size": "0.25", "summary_use_proj": True, "embedding_size": 16}),
    ("deberta-v2", {"attention_head_size": 8, "pooler_hidden_size": 32, "conv_act": "gelu"}),
    ("deberta-v2", {"max_relative_positions": -1, "pos_att_type": "p2c|c2p"}),
    (
        "modernbert",
        {
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "gradient_checkpointing": False,
            "layer_norm_eps": 1e-05,
            "position_embedding_type": "absolute",
            "reference_compile": False,
            "repad_logits_with_grad": False,
        },
    ),
    (
        "gpt2",
        {
            "n_ctx": 1024,
            "summary_proj_to_labels": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "predict_special_tokens": True,
        },
    ),
    ("gpt2", {"n_special": 0, "_num_labels": 1}),
    ("bert", {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
    ("opt", {"activation_dropout": 0.0, "prefix": "</s>", "layerdrop": 0.0}),
    ("llama", {**_OLD_LLAMA, "max_sequence_length": 2048}),
    (
        "llama",  # 3.2
        {
            "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 40,
                "rope_type": "llama3",
            },
        },
    ),
    (
        "llama",  # SmolLM2
        {
            "is_llama_config": True,
            "rope_interleaved": False,
            "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}},
        },
    ),
    ("llama", {"unsloth_version": "2024.9", "_flash_attn_2_enabled": True}),
    ("mistral", {"rope_theta": 1000000.0, "head_dim": 8}),
    ("qwen2", _QWEN),
    ("qwen2", {"rope_scaling": {"factor": 4.0, "type": "yarn"}}),
    ("qwen3", _QWEN),
    ("gemma", {"hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0}),
    ("gemma", {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}),
    ("gemma2", {"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}),
    ("gemma2", {"sliding_window": 6, "sliding_window_size": 6}),  # 9B
    (
        "gemma3_text",
        {
            "cache_implementation": "hybrid",
            "rope_local_base_freq": 10000,
            "rope_theta": 1000000,
            "sliding_window_pattern": 6,
            "_sliding_window_pattern": 6,
        },
    ),
    ("phi", {"partial_rotary_factor": 0.4, "rope_theta": 10000.0, "qk_layernorm": False}),
    ("t5", {"n_positions": 512, "output_past": True, "tokenizer_class": "T5Tokenizer"}),
    ("flan-t5", {"n_positions": 512, "dense_act_fn": "gelu_new", "is_gated_act": True}),
    ("mt5", {"tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer"}),
    (
        "bart",
        {
            "add_bias_logits": False,
            "add_final_layer_norm": False,
            "classif_dropout": 0.1,
            "extra_pos_embeddings": 2,
            "force_bos_token_to_be_generated": True,
            "forced_bos_token_id": 0,
            "gradient_checkpointing": False,
            "length_penalty": 2.0,
            "no_repeat_ngram_size": 3,
            "normalize_before": False,
            "normalize_embedding": True,
            "num_hidden_layers": 2,
            "prefix": " ",
            "static_position_embeddings": False,
        },
    ),
]


def fields_of(family, changes):
    """A tiny config.json with some settings changed; their own positions where those are given."""
    fields = json.loads(config_of(family).to_json_string())
    if changes.keys() & {"rope_theta", "rope_scaling", "global_rope_theta", "rope_local_base_freq"}:
        fields.pop("rope_parameters", None)
    return fields | changes


def check(family, changes, ignored=()):
    fields = fields_of(family, changes)
    with quiet():
        config = AutoConfig.for_model(**json.loads(json.dumps(fields)))
    check_settings(FILE, fields, config, FAMILIES[config.model_type].stack, ignored)


@pytest.mark.parametrize(("family", "changes"), PUBLISHED)
def test_settings_of_published_models_are_no_false_alarm(family, changes):
    check(family, changes)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key_query"}, '"relative_key_query"'),
        ("bert", {"position_embedding_type": "alibi"}, "position_embedding_type"),
        ("bert", {"is_decoder": True}, "is_decoder is true"),
        ("bert", {"add_cross_attention": True, "is_decoder": False}, "add_cross_attention"),
        ("bert", {"feed_forward_type": "geglu"}, "feed_forward_type"),
        ("bert", {"pruned_heads": {"1": [0, 2]}}, "pruned_heads"),
        ("bert", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"num_hidden_layers": 5}, "n_layer is 2 and num_hidden_layers is 5"),
        ("llama", {"sliding_window": 6}, "sliding_window is 6"),
        ("gemma2", {"sliding_window_size": 4}, "sliding_window_size is 4"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved"),
        ("llama", {"qk_norm": True}, "qk_norm"),
        ("llama", {"logits_scaling": 8.0}, "logits_scaling"),
        ("mistral", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ("qwen2", {"use_mrope": True}, "use_mrope"),
        ("qwen2", {"dual_chunk_attention_config": {"chunk_size": 9}}, "dual_chunk_attention_con"),
        ("gemma", {"hidden_activation": "relu"}, 'hidden_activation is "relu"'),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("bart", {"normalize_before": True}, "normalize_before"),
        ("t5", {"is_encoder_decoder": False}, "is_encoder_decoder"),
    ],
)
def test_a_setting_that_nothing_reads_is_named(family, changes, message):
    with pytest.raises(BadInputError, match=message):
        check(family, changes)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "su", "factor": 2.0}, "type 'su' are not supported"),
        ({"rope_type": "dynamic", "factor": 2.0}, "supported are default, linear, llama3, yarn"),
        ({"rope_type": "linear", "factor": 2.0, "mscale": 3.0}, "rope_parameters.mscale is 3.0"),
        ({"type": "default", "mrope_section": [2, 1, 1]}, "mrope_section"),
    ],
)
def test_rotary_positions_of_another_kind_are_named(scaling, message):
    with pytest.raises(BadInputError, match=message):
        check("llama", {"rope_scaling": scaling})


def test_two_bases_of_rotary_positions_are_refused():
    fields = fields_of("llama", {}) | {"rope_theta": 5e5}
    config = AutoConfig.for_model(**json.loads(json.dumps(fields)))
    with pytest.raises(BadInputError, match=r"rope_theta is 500000.0 and 10000.0"):
        check_settings(FILE, fields, config, "decoder", ())


def test_code_of_the_models_own_is_not_taken_for_transformers():
    code = {"AutoConfig": "own.Config", "AutoModel": "own--modeling.JinaBertModel"}
    with pytest.raises(BadInputError, match="JinaBertModel"):
        check("bert", {"auto_map": code})
    check("bert", {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}})


def test_a_class_of_older_transformers_declares_its_arguments_and_attributes():
    class Base:
        def __init__(self, pad_token_id=None, **kwargs):
            pass

    class Old(Base):
        def __init__(self, encoder_layers=2, **kwargs):
            self.num_hidden_layers = encoder_layers

    names = {"pad_token_id", "encoder_layers", "num_hidden_layers"}
    assert declared_settings(Old) >= names
    assert "alibi" not in declared_settings(Old)


def test_what_the_user_knows_not_to_matter_is_ignored():
    check("bert", {"position_embedding_type": "x", "own_thing": 3}, ("position_*", "own_thing"))


def test_a_model_that_sees_what_follows_writes_no_text():
    config = config_of("gemma3_text", use_bidirectional_attention=True)
    with pytest.raises(BadInputError, match="classification or regression"):
        check_task_settings(FILE, config, "causal-lm")
    check_task_settings(FILE, config, "classification")
