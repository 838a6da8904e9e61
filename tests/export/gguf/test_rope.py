from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edge_runtime.contract.errors import BadInputError
from export.gguf.config import read_config
from export.gguf.reader import open_gguf
from export.gguf.rope import FACTORS
from tests.export.gguf.files import language_model, loaded, logits_of, write_gguf

_THETA = 10_000.0


def _factors(channels, *, factor, low, high, length):
    """The loop of convert_hf_to_gguf.py."""
    found = []
    for place in range(0, channels, 2):
        wave = 2 * math.pi * _THETA ** (place / channels)
        if wave < length / high:
            found.append(1.0)
        elif wave > length / low:
            found.append(factor)
        else:
            smooth = (length / wave - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def _same(tmp_path, family, rope, **changes):
    model = language_model(family, rope_parameters={"rope_theta": _THETA, **rope})
    found = loaded(write_gguf(tmp_path / "m.gguf", model, **changes))
    logits = logits_of(found)
    torch.testing.assert_close(logits, logits_of(model), rtol=1e-4, atol=1e-5)
    assert (logits - logits_of(language_model(family))).abs().max() > 1e-3


@pytest.mark.parametrize(
    "keys",
    [
        {".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0},
        {".rope.scaling.factor": 4.0},  # linear is what llama.cpp takes it for
        {".rope.scale_linear": 4.0},
    ],
)
def test_linear_scaling_is_kept(tmp_path, keys):
    _same(tmp_path, "llama", {"rope_type": "linear", "factor": 4.0}, keys=keys)


def test_yarn_is_kept(tmp_path):
    rope = {"factor": 4.0, "original_max_position_embeddings": 40, "beta_fast": 8.0}
    keys = {
        ".rope.scaling.type": "yarn",
        ".rope.scaling.factor": 4.0,
        ".rope.scaling.original_context_length": 40,
        ".rope.scaling.yarn_beta_fast": 8.0,
    }
    _same(tmp_path, "qwen2", {"rope_type": "yarn", **rope}, keys=keys)


@pytest.mark.parametrize(
    ("factor", "low", "high", "length"),
    [
        (8.0, 1.0, 4.0, 64),  # short, long, one between
        (8.0, 2.0, 3.0, 1000),  # none between
        (32.0, 1.0, 90.0, 2000),  # several between
    ],
)
def test_llama_3_scaling_is_found_in_the_factors(tmp_path, factor, low, high, length):
    rope = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    rope["original_max_position_embeddings"] = length
    tensors = {FACTORS: _factors(8, factor=factor, low=low, high=high, length=length)}
    _same(tmp_path, "llama", {"rope_type": "llama3", **rope}, tensors=tensors)


def test_the_numbers_of_llama_3_are_the_published_ones(tmp_path):
    model = language_model("llama", head_dim=64)
    numbers = {"factor": 32.0, "low": 1.0, "high": 4.0, "length": 8192}
    file = write_gguf(tmp_path / "m.gguf", model, tensors={FACTORS: _factors(64, **numbers)})
    assert read_config(open_gguf(file)).rope_parameters == {
        "rope_type": "llama3",
        "rope_theta": _THETA,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_gemma_3_scales_its_global_layers_only(tmp_path):
    model = language_model(
        "gemma3_text",
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    keys = {
        ".rope.scaling.type": "linear",
        ".rope.scaling.factor": 8.0,
        ".attention.sliding_window_pattern": [True, False],
    }
    found = loaded(write_gguf(tmp_path / "m.gguf", model, keys=keys))
    assert found.config.rope_parameters == model.config.rope_parameters
    torch.testing.assert_close(logits_of(found), logits_of(model))


@pytest.mark.parametrize(
    ("keys", "tensors", "message"),
    [
        ({".rope.scaling.type": "longrope"}, {}, r"rope\.scaling\.type is 'longrope'"),
        ({}, {FACTORS: np.array([1, 5, 2, 7], np.float32)}, rf"factors in {FACTORS}"),
        ({}, {FACTORS: np.ones(3, np.float32)}, rf"factors in {FACTORS}"),
        (
            {".rope.scaling.factor": 2.0},
            {FACTORS: np.ones(4, np.float32)},
            rf"both {FACTORS} and linear scaling",
        ),
    ],
)
def test_scaling_that_transformers_has_not_is_refused(tmp_path, keys, tensors, message):
    file = write_gguf(tmp_path / "m.gguf", language_model("llama"), keys=keys, tensors=tensors)
    with pytest.raises(BadInputError, match=message):
        read_config(open_gguf(file))


def test_factors_of_one_are_no_scaling(tmp_path):
    ones = {FACTORS: np.ones(4, np.float32)}
    file = write_gguf(tmp_path / "m.gguf", language_model("llama"), tensors=ones)
    assert read_config(open_gguf(file)).rope_parameters["rope_type"] == "default"
