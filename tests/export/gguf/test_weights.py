from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModel

from edge_runtime.contract.errors import BadInputError
from export.gguf.config import read_config
from export.gguf.reader import open_gguf
from export.gguf.weights import load_weights
from tests.export.gguf.files import (
    ARCHITECTURES,
    language_model,
    loaded,
    logits_of,
    tensors_of,
    write_gguf,
)

# Gemma 3 looks at windows in five of six layers, whatever the two of the tiny model say.
_KEYS = {"gemma3_text": {".attention.sliding_window_pattern": 2}}


@pytest.fixture(scope="module")
def llama():
    return language_model("llama")


@pytest.mark.parametrize(
    ("family", "tied"), [*((family, True) for family in ARCHITECTURES), ("qwen2", False)]
)
def test_a_file_computes_what_the_model_did_that_it_was_made_of(tmp_path, family, tied):
    model = language_model(family, tie_word_embeddings=tied)
    file = write_gguf(tmp_path / "m.gguf", model, keys=_KEYS.get(family))
    found = loaded(file)
    assert found.config.tie_word_embeddings == tied
    torch.testing.assert_close(logits_of(found), logits_of(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("biases", [{"attention_bias": True}, {"mlp_bias": True}])
def test_biases_of_llama_models_are_found(tmp_path, biases):
    model = language_model("llama", **biases)
    found = loaded(write_gguf(tmp_path / "m.gguf", model))
    torch.testing.assert_close(logits_of(found), logits_of(model))


def test_queries_keys_and_values_in_one_tensor_are_cut(tmp_path):
    model = language_model("phi")
    parts = tensors_of(model)
    changed = {}
    for layer, kind in itertools.product((0, 1), ("weight", "bias")):
        names = [f"blk.{layer}.attn_{part}.{kind}" for part in "qkv"]
        changed |= dict.fromkeys(names)
        changed[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate([parts[name] for name in names])
    found = loaded(write_gguf(tmp_path / "m.gguf", model, tensors=changed))
    torch.testing.assert_close(logits_of(found), logits_of(model))


def test_quantized_tensors_are_what_the_package_says(tmp_path, llama):
    from gguf import GGMLQuantizationType, dequantize, quantize

    file = write_gguf(tmp_path / "m.gguf", llama, types={"blk.1.ffn_up.weight": "Q8_0"})
    kind = GGMLQuantizationType.Q8_0
    expected = dequantize(quantize(tensors_of(llama)["blk.1.ffn_up.weight"], kind), kind)
    found = loaded(file).model.layers[1].mlp.up_proj.weight
    np.testing.assert_array_equal(found.detach().numpy(), expected)


def test_a_model_without_head_leaves_out_the_head_only(tmp_path):
    model = language_model("qwen2", tie_word_embeddings=False)
    file = open_gguf(write_gguf(tmp_path / "m.gguf", model))
    _, info = load_weights(file, read_config(file), AutoModel)
    assert not info["unexpected_keys"] | info["missing_keys"]


@pytest.mark.parametrize(
    "name",
    [
        "rope_factors_long.weight",
        "blk.2.attn_q.weight",
        "token_embd_norm.weight",
    ],
)
def test_a_tensor_that_nothing_reads_is_refused_by_name(tmp_path, llama, name):
    file = write_gguf(tmp_path / "m.gguf", llama, tensors={name: np.ones(8, np.float32)})
    with pytest.raises(
        BadInputError, match=rf"has tensor {name}, which nothing .* --ignore {name}$"
    ):
        loaded(file)


def test_a_tensor_that_the_user_knows_not_to_matter_is_left_out(tmp_path, llama):
    tensors = {"blk.2.attn_q.weight": np.ones(8, np.float32)}
    file = open_gguf(write_gguf(tmp_path / "m.gguf", llama, tensors=tensors))
    found, _ = load_weights(file, read_config(file), AutoModel, lambda name: "blk.2" in name)
    assert len(found.layers) == 2


def test_a_missing_tensor_is_named(tmp_path, llama):
    file = write_gguf(tmp_path / "m.gguf", llama, tensors={"blk.1.ffn_down.weight": None})
    with pytest.raises(BadInputError, match=r"lacks tensor blk\.1\.ffn_down\.weight;"):
        loaded(file)


def test_values_that_are_no_numbers_are_refused_by_tensor(tmp_path, llama):
    norm = np.array([np.nan, *[1.0] * 31], np.float32)
    file = write_gguf(tmp_path / "m.gguf", llama, tensors={"blk.0.attn_norm.weight": norm})
    with pytest.raises(BadInputError, match=r"tensor blk\.0\.attn_norm\.weight has 1 values"):
        loaded(file)


def test_a_tensor_of_another_shape_is_refused_with_both(tmp_path, llama):
    file = write_gguf(tmp_path / "m.gguf", llama, keys={".feed_forward_length": 40})
    with pytest.raises(BadInputError, match=r"blk\.0\.ffn_\w+\.weight is .*96.*must be .*40"):
        loaded(file)
