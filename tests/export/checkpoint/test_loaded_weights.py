"""A loaded model is the whole checkpoint, or is refused naming what would be dropped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.load import find_checkpoint, load_model


@pytest.fixture
def changed(tiny_model, tmp_path):
    """``changed("bert", weights, settings)``: a tiny model, some of it replaced or (None) gone."""

    def change(family, weights=(), settings=()):
        folder = Path(shutil.copytree(tiny_model(family), tmp_path / family))
        file, config = folder / "model.safetensors", folder / "config.json"
        tensors = load_file(file) | dict(weights)
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, file, metadata={"format": "pt"})
        config.write_text(json.dumps(json.loads(config.read_text()) | dict(settings)))
        return folder

    return change


def load(folder, task="classification", ignored=()):
    return load_model(find_checkpoint(str(folder), Path("scratch"), ignored), task)


def refused(folder, message, task="classification"):
    with pytest.raises(BadInputError, match=message) as caught:
        load(folder, task)
    assert "\n" not in str(caught.value)


def test_relative_positions_that_nothing_uses_are_named(changed):
    name = "encoder.layer.1.attention.self.distance_embedding.weight"
    folder = changed("bert", {name: torch.ones(9, 8)})
    refused(folder, f"nothing uses {name}.*--ignore")
    load(folder, ignored=("*.distance_embedding.weight",))


def test_lora_matrices_inside_are_named(changed):
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    refused(changed("llama", {name: torch.ones(4, 32)}), f"not merged, {name}")


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
def test_layers_that_the_configuration_does_not_count_are_counted(changed, task):
    folder = changed("llama", settings={"num_hidden_layers": 1})
    refused(folder, "config.json says 1 layers, but the weights have 2", task)


def test_layers_that_the_weights_do_not_have_are_counted(changed):
    folder = changed("bert", settings={"num_hidden_layers": 5})
    refused(folder, "config.json says 5 layers, but the weights have 3")


def test_a_missing_weight_is_named(changed):
    name = "encoder.layer.1.output.dense.bias"
    refused(changed("bert", {name: None}), f"{name} .*not in the checkpoint")


def test_a_weight_of_another_shape_is_named_with_both(changed):
    folder = changed("llama", settings={"vocab_size": 70})
    refused(folder, r"embed_tokens.weight has the shape \(64, 32\), .*makes it \(70, 32\)")


def test_names_that_a_tool_has_changed_are_said(tiny_model, changed):
    tensors = load_file(tiny_model("llama") / "model.safetensors")
    renamed = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
    folder = changed("llama", renamed | dict.fromkeys(tensors))
    refused(folder, "have other names than the architecture's: nothing uses _orig_mod")


@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_what_is_not_finite_is_named(changed, value):
    weight = torch.ones(96, 32)
    weight[3, 4] = float(value)
    folder = changed("llama", {"model.layers.1.mlp.up_proj.weight": weight})
    kind = "NaN" if value == "nan" else "infinity"
    refused(folder, rf"layers.1.mlp.up_proj.weight holds {kind} \(1 of its 3072")


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", ["pooler.dense.weight", "cls.predictions.bias", "classifier.weight"]),
        ("bert", ["embeddings.position_ids", "cls.seq_relationship.weight"]),
        ("roberta", ["lm_head.dense.weight", "classifier.out_proj.bias"]),
        ("distilbert", ["vocab_projector.weight", "pre_classifier.bias"]),
        ("electra", ["discriminator_predictions.dense.weight"]),
        ("deberta-v2", ["lm_predictions.lm_head.bias", "mask_predictions.dense.weight"]),
        ("gpt2", ["h.0.attn.bias", "h.1.attn.masked_bias", "score.weight"]),
        ("llama", ["score.weight"]),
    ],
)
def test_heads_of_other_tasks_and_old_buffers_are_left_out(changed, family, names):
    load(changed(family, {name: torch.ones(2, 2) for name in names}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_frequencies_of_old_versions_must_be_those_of_the_configuration(changed, dtype):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    stored = (1.0 / 1e4 ** (torch.arange(0, 8, 2) / 8)).to(dtype)
    folder = changed("llama", {name: stored})
    load(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("10000.0", "500000.0"))
    refused(folder, f"{name} are other rotary frequencies")


def test_a_head_that_differs_from_the_embeddings_is_the_checkpoints_own(changed):
    head = torch.full((64, 32), 0.5)
    folder = changed("qwen2", {"lm_head.weight": head})  # its configuration ties the two
    model = load(folder, "causal-lm").language_model
    assert torch.equal(model.get_output_embeddings().weight, head)


def test_a_configuration_that_builds_no_model_is_not_blamed_on_the_weights(changed):
    folder = changed("bert", settings={"hidden_act": "gleu"})
    refused(folder, "cannot build the model that its configuration describes: .*gleu")


def test_padding_beyond_the_vocabulary_loads(changed):
    folder = changed("llama", settings={"pad_token_id": 64})
    checkpoint = find_checkpoint(str(folder), Path("scratch"))
    assert "pad_token_id 64" in checkpoint.notes[0]
    assert load_model(checkpoint, "causal-lm").inputs[0].pad == 0
