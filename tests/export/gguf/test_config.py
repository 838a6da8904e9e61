from __future__ import annotations

import math

import pytest

from edge_runtime.contract.errors import BadInputError
from export.gguf.config import read_config
from export.gguf.reader import open_gguf
from tests.export.gguf.files import ARCHITECTURES, language_model, write_gguf


@pytest.fixture(scope="module")
def models():
    return {family: language_model(family) for family in ARCHITECTURES}


def _config(tmp_path, model, **changes):
    return read_config(open_gguf(write_gguf(tmp_path / "m.gguf", model, **changes)))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "phi"])
def test_a_configuration_is_that_of_the_model_written(tmp_path, models, family):
    wanted, found = models[family].config.to_dict(), _config(tmp_path, models[family]).to_dict()
    of_the_file = ("_name_or_path", "architectures", "dtype", "initializer_range", "rms_norm_eps")
    for key in (*of_the_file, "layer_norm_eps"):
        wanted.pop(key, None), found.pop(key, None)
    if family != "llama":
        found.pop("attention_bias", None), found.pop("head_dim", None)
        wanted.pop("attention_bias", None), wanted.pop("head_dim", None)
    assert found == wanted


@pytest.mark.parametrize(
    "missing", [".block_count", ".attention.head_count", ".attention.layer_norm_rms_epsilon"]
)
def test_a_missing_key_is_named(tmp_path, models, missing):
    with pytest.raises(BadInputError, match=rf"has no llama\{missing}"):
        _config(tmp_path, models["llama"], keys={missing: None})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({".attention.head_count": 0}, r"llama\.attention\.head_count is 0"),
        ({".block_count": "two"}, r"llama\.block_count is 'two'"),
        ({".attention.layer_norm_rms_epsilon": math.nan}, r"rms_epsilon is nan"),
        ({".rope.freq_base": 0.0}, r"rope\.freq_base is 0 .*above 0"),
        ({".rope.freq_base": "10000"}, r"llama\.rope\.freq_base is '10000', of another type"),
        ({".attention.key_length": [8, 8]}, r"key_length is \[8, 8\], of another type"),
        ({"tokenizer.ggml.eos_token_id": "3"}, r"eos_token_id is '3', of another type"),
        ({"tokenizer.ggml.token_type": 1}, r"token_type is 1, of another type"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, r"add_bos_token is 'yes', of another type"),
        ({".vocab_size": 99}, r"llama\.vocab_size is 99.*64"),
        ({".rope.dimension_count": 4}, r"llama\.rope\.dimension_count is 4.*8"),
        ({".attention.value_length": 16}, r"llama\.attention\.value_length is 16.*8"),
        ({".attention.head_count_kv": [2, 1]}, r"head_count_kv differs between layers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, models, keys, message):
    with pytest.raises(BadInputError, match=message):
        _config(tmp_path, models["llama"], keys=keys)


def test_lists_of_one_value_for_all_layers_are_that_value(tmp_path, models):
    config = _config(tmp_path, models["llama"], keys={".attention.head_count_kv": [2, 2]})
    assert config.num_key_value_heads == 2


def test_more_tokens_than_embeddings_are_refused(tmp_path, models):
    tokens = [f"t{place}" for place in range(70)]
    with pytest.raises(BadInputError, match=r"has 70 tokens, token_embd\.weight has 64 rows"):
        _config(tmp_path, models["llama"], tokenizer={"tokens": tokens})


def test_every_token_that_ends_a_text_is_handed_on(tmp_path, models):
    ends = {"eos_token_id": 3, "eot_token_id": 7, "eom_token_id": 3}
    assert _config(tmp_path, models["llama"], tokenizer=ends).eos_token_id == [3, 7]


def test_a_special_token_that_does_not_exist_is_refused(tmp_path, models):
    with pytest.raises(BadInputError, match=r"tokenizer\.ggml\.bos_token_id is 64"):
        _config(tmp_path, models["llama"], tokenizer={"bos_token_id": 64})


def test_no_token_may_be_written_as_the_largest_number(tmp_path, models):
    config = _config(tmp_path, models["llama"], tokenizer={"padding_token_id": 0xFFFFFFFF})
    assert config.pad_token_id is None


@pytest.mark.parametrize(("family", "layers"), [("gemma2", 46), ("gemma3_text", 62)])
def test_the_largest_gemma_scales_scores_as_llama_cpp_does(tmp_path, models, family, layers):
    keys = {".block_count": layers, ".embedding_length": 48}
    config = _config(tmp_path, models[family], keys=keys)
    assert (config.head_dim, config.query_pre_attn_scalar) == (8, 12)


@pytest.mark.parametrize(("family", "period"), [("gemma2", 2), ("gemma3_text", 6)])
def test_all_but_each_last_layer_of_a_period_see_a_window(tmp_path, models, family, period):
    config = _config(tmp_path, models[family], keys={".block_count": 12})
    whole = [layer for layer, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert whole == list(range(period - 1, 12, period))


def test_a_smaller_gemma_scales_scores_by_its_heads(tmp_path, models):
    assert _config(tmp_path, models["gemma2"]).query_pre_attn_scalar == 8
