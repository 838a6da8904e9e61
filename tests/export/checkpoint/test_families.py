"""Every family in the table: its stages, its padding and its head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import read_tensors
from export.bundle import export_model
from export.checkpoint.families import FAMILIES as TABLE
from export.partition.lm_head import head_logits
from export.partition.stages import cut_stage
from export.verify.ort_session import Graph
from export.verify.parity import reference_states, relative_error
from export.verify.samples import check_samples, pad_batch, token_masks
from tests.export.helpers import chain, lay_out
from tests.models import (
    DECODERS,
    ENCODER_DECODERS,
    FAMILIES,
    VOCAB_SIZE,
    tiny_model_dir,
    tiny_tokenizer,
)

# Others differ from these in few operators; one trace takes seconds.
RARE = {"modernbert", "gemma2", "gemma3_text", "mistral", "mt5", "xlm-roberta"}


def marked(families):
    return [
        pytest.param(family, marks=pytest.mark.slow) if family in RARE else family
        for family in families
    ]


def samples_of(bundle):
    manifest = bundle.manifest
    start = manifest.decoder_start_token_id or 0
    return check_samples(
        bundle.tokenizer_path, manifest.inputs, VOCAB_SIZE, manifest.max_length, start
    )


def batch_of(bundle, **options):
    return pad_batch(samples_of(bundle), bundle.manifest.inputs, **options)


def plain_model(folder, bundle):
    """The model as transformers loads it; the language model where there is a head."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = {"causal-lm": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}.get(
        bundle.manifest.task, AutoModel
    )
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


def cuts_of(bundle):
    count = len(bundle.manifest.blocks)
    cuts = [[0, count], [0, 1, count], [0, 2, count], [*range(count + 1)]]
    if len(bundle.manifest.streams) > 1:
        start = bundle.manifest.layers_of("decoder").start
        cuts += [[0, start, count], [0, start - 1, start + 1, count], [0, start + 1, count]]
    return cuts


@pytest.mark.parametrize("family", marked(FAMILIES))
def test_stages_of_any_cut_give_what_hugging_face_gives(family, tiny_bundle, tiny_model, tmp_path):
    bundle = tiny_bundle(family, "none")
    batch = batch_of(bundle)
    masks = token_masks(batch, bundle.manifest.inputs)
    expected = reference_states(plain_model(tiny_model(family), bundle), batch)
    for cuts in cuts_of(bundle):
        states = chain(bundle, cuts, tmp_path / "-".join(map(str, cuts)), batch)
        for block, state, reference in zip(bundle.manifest.blocks, states, expected, strict=True):
            mask = masks[block.stream]
            error = relative_error(state[mask], reference[mask]).max()
            assert error <= 1e-4, f"{block.name} with cuts at {cuts}"


@pytest.mark.parametrize("family", marked(FAMILIES))
def test_a_stage_is_fed_with_what_is_carried_and_with_masks(family, tiny_bundle):
    bundle = tiny_bundle(family, "none")
    manifest = bundle.manifest
    masks = {spec.name for spec in manifest.inputs if spec.kind == "mask"}
    for cut in range(len(manifest.blocks)):
        stage = onnx.load_from_string(cut_stage(bundle, cut, len(manifest.blocks)))
        fed = [value.name for value in stage.graph.input if value.name not in masks]
        assert tuple(fed) == manifest.carried(cut)
        own = manifest.blocks[cut].stream
        last = manifest.layers_of("encoder").stop - 1
        hidden = [name for name in fed if name.startswith("hidden.")]
        alone = len(manifest.streams) == 1 or own == "encoder"
        assert len(hidden) <= (1 if alone else 2)
        assert set(hidden) <= {f"hidden.{cut - 1}", f"hidden.{last}"}


@pytest.mark.parametrize("family", marked(FAMILIES))
def test_the_states_of_a_sample_do_not_depend_on_its_batch(family, tiny_bundle, tmp_path):
    bundle = tiny_bundle(family, "none")
    inputs, blocks = bundle.manifest.inputs, bundle.manifest.blocks
    samples = samples_of(bundle)
    graph = Graph(lay_out(bundle, 0, len(blocks), tmp_path))
    batch = pad_batch(samples, inputs)
    together, masks = graph.run(batch), token_masks(batch, inputs)
    for row, sample in enumerate(samples):
        if min(map(len, sample.values())) == 1:
            continue  # its products are of vectors and may sum in another order
        alone = graph.run(pad_batch([sample], inputs))
        for index, block in enumerate(blocks):
            name = f"hidden.{index}"
            state = together[name][row][masks[block.stream][row]]
            np.testing.assert_array_equal(state, alone[name][0], f"{name} of sample {row}")


@pytest.mark.parametrize("family", marked(DECODERS))
def test_padding_on_the_left_changes_no_states(family, tiny_bundle, tmp_path):
    bundle = tiny_bundle(family, "none")
    inputs, blocks = bundle.manifest.inputs, bundle.manifest.blocks
    graph = Graph(lay_out(bundle, 0, len(blocks), tmp_path))
    left, right = batch_of(bundle, left=True), batch_of(bundle)
    states, expected = graph.run(left), graph.run(right)
    for name, state in states.items():
        tokens = state[token_masks(left, inputs)["decoder"]]
        reference = expected[name][token_masks(right, inputs)["decoder"]]
        assert relative_error(tokens, reference).max() <= 1e-5


@pytest.mark.parametrize("family", marked((*DECODERS, *ENCODER_DECODERS)))
def test_the_head_makes_the_logits_of_the_model(family, tiny_bundle, tiny_model):
    import torch

    bundle = tiny_bundle(family, "none")
    spec = bundle.manifest.head
    tensors = read_tensors((bundle.path / spec.path).read_bytes())
    batch = {name: torch.from_numpy(array) for name, array in batch_of(bundle).items()}
    with torch.inference_mode():
        output = plain_model(tiny_model(family), bundle)(**batch, output_hidden_states=True)
    stack = "hidden_states" if family in DECODERS else "decoder_hidden_states"
    logits = head_logits(output[stack][-1].numpy(), tensors, spec)
    assert logits.shape[-1] == spec.vocab_size == VOCAB_SIZE
    np.testing.assert_allclose(logits, output.logits.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("family", "part"), [("phi", "bias"), ("bart", "bias"), ("t5", "scale"), ("llama", "")]
)
def test_heads_differ_in_bias_and_scale(family, part, tiny_bundle):
    bundle = tiny_bundle(family, "none")
    spec = bundle.manifest.head
    tensors = read_tensors((bundle.path / spec.path).read_bytes())
    assert ("bias" in tensors) == (part == "bias")
    assert spec.scale == pytest.approx(32**-0.5 if part == "scale" else 1)


@pytest.mark.parametrize("family", marked(ENCODER_DECODERS))
def test_an_encoder_decoder_names_its_stacks(family, tiny_bundle):
    manifest = tiny_bundle(family, "none").manifest
    stacks = ["encoder", "decoder"]
    parts = ["embeddings", "layer.0", "layer.1"]
    assert [block.name for block in manifest.blocks] == [f"{s}.{p}" for s in stacks for p in parts]
    assert [block.kind for block in manifest.blocks] == ["embeddings", "layer", "layer"] * 2
    assert [block.stream for block in manifest.blocks] == ["encoder"] * 3 + ["decoder"] * 3
    assert [spec.name for spec in manifest.blocks[4].inputs] == [
        "hidden.2",
        "hidden.3",
        "attention_mask",
        "decoder_attention_mask",
    ]
    # The embedding table is read by both stacks, and sent once.
    both = set(manifest.blocks[0].weights) & set(manifest.blocks[3].weights)
    assert len(both) == 1
    assert manifest.decoder_start_token_id is not None


def test_what_is_pooled_needs_the_encoder_alone(tmp_path):
    model = tiny_model_dir(tmp_path, "bart", encoder_layers=1, decoder_layers=1)
    manifest = export_model(str(model), tmp_path / "out").manifest
    assert manifest.streams == ("encoder",)
    assert [block.name for block in manifest.blocks] == ["embeddings", "layer.0"]
    assert [spec.name for spec in manifest.inputs] == ["input_ids", "attention_mask"]
    assert manifest.head is None


def test_generation_ends_at_the_ids_of_the_generation_config(tiny_bundle):
    assert tiny_bundle("llama", "none").manifest.eos_token_ids == (3,)
    assert tiny_bundle("bert", "none").manifest.eos_token_ids == ()


def test_an_architecture_outside_the_table_is_refused_naming_those_inside(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model("bert"), tmp_path / "mamba"))
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(BadInputError, match="'mamba' is not supported") as caught:
        export_model(str(folder), tmp_path / "out")
    for name in TABLE:
        assert name in str(caught.value)


def test_states_of_unequal_widths_are_refused(tmp_path):
    from transformers import OPTConfig, OPTModel

    folder = tmp_path / "narrow"
    config = OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        ffn_dim=32,
        max_position_embeddings=80,
    )
    OPTModel(config).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    with pytest.raises(BadInputError, match="hidden state 1 of this model has 16 channels"):
        export_model(str(folder), tmp_path / "out")
