"""Weights in a form of another tool are refused, naming the tool or the tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.foreign import check_settings_plain, check_tensors_plain
from export.checkpoint.weight_files import StoredTensor

FOLDER, CONFIG = Path("model"), Path("model/config.json")


def tensors(**dtypes):
    return {
        name: StoredTensor(dtype=dtype, shape=(2, 2), file=FOLDER / "model.safetensors")
        for name, dtype in dtypes.items()
    }


@pytest.mark.parametrize(
    ("fields", "tool"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bits"),
        ({"quantization_config": {"bits": 4}}, r"quantized \(quantization_config\)"),
        ({"compression_config": {"format": "pack-quantized"}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "by MLX"),
    ],
)
def test_a_configuration_that_says_quantized_names_the_tool(fields, tool):
    with pytest.raises(BadInputError, match=f"{tool}.*--quantize int8"):
        check_settings_plain(CONFIG, fields, plain=False)


def test_a_left_over_note_of_quantization_beside_plain_weights_can_be_removed():
    fields = {"quantization_config": {"quant_method": "bitsandbytes"}}
    with pytest.raises(BadInputError, match=r"plain floats.*remove quantization_config"):
        check_settings_plain(CONFIG, fields, plain=True)
    check_settings_plain(CONFIG, {"quantization_config": None}, plain=True)


@pytest.mark.parametrize("dtype", ["U8", "I64", "F8_E4M3"])
def test_packed_weights_are_seen_without_any_note(dtype):
    found = tensors(**{"layers.0.q_proj.weight": dtype})
    with pytest.raises(BadInputError, match=f"layers.0.q_proj.weight .*{dtype}"):
        check_tensors_plain(FOLDER, found)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.q_proj.weight",
        "layers.0.q_proj.base_layer.weight",
        "layers.0.mlp.ia3_l",
        "layers.0.q_proj.lora_magnitude_vector.default.weight",
        "encoder.layer.0.output.adapters.task.adapter_down.0.weight",
        "classifier.modules_to_save.default.weight",
    ],
)
def test_adapters_inside_a_checkpoint_are_refused_with_the_way_out(name):
    with pytest.raises(BadInputError, match=r"not merged.*merge_and_unload"):
        check_tensors_plain(FOLDER, tensors(**{name: "F32"}))


def test_weights_that_were_never_gathered_are_named():
    empty = StoredTensor(dtype="F32", shape=(0,), file=FOLDER / "model.safetensors")
    with pytest.raises(BadInputError, match=r"without values, q_proj.weight, as .*zero_to_fp32"):
        check_tensors_plain(FOLDER, {"q_proj.weight": empty})


def test_floats_and_buffers_of_old_versions_are_plain():
    dtypes = {
        "a.weight": "BF16",
        "b.weight": "F16",
        "c.weight": "F64",
        "bert.embeddings.position_ids": "I64",
        "h.0.attn.bias": "U8",
        "h.0.attn.masked_bias": "F32",
        "model.layers.0.self_attn.rotary_emb.inv_freq": "F32",
    }
    check_tensors_plain(FOLDER, tensors(**dtypes))
