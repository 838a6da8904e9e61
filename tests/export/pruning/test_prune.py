"""Initial adapters cut out of the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import BadInputError, PacplusError, UsageError
from edge_runtime.contract.tensors import write_tensors
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch, ParallelAdapter, Trainer
from export.checkpoint.load import find_checkpoint, load_model
from export.pruning.initial_adapter import PrunedAdapter, check_shape, read_calibration
from export.pruning.observe import observe_stacks
from export.pruning.prune import pruned_tensors
from export.tracing.trace import count_blocks
from export.verify.samples import check_samples
from tests.models import ENCODER_DECODERS, FAMILIES, VOCAB_SIZE, widest_task

WIDTH = 16
CHANNELS = torch.tensor([1, 2, 3, 5, 8, 9, 10, 13, 15, 17, 20, 21, 25, 26, 28, 31])
HEAD = slice(16, 24)  # the third of four heads of eight channels
NEURONS = torch.arange(2, 96, 6)


def leave(model):
    """Changes nothing."""


@pytest.fixture(scope="module")
def prune(tiny_model):
    """``prune("bert")``: the adapter's shape, and its tensors, after a change of the model.

    With ``observed``, the first stack of the backbone too.
    """

    def prune(family, change=leave, *, observed=False, **shape):
        checkpoint = find_checkpoint(str(tiny_model(family)), Path("scratch"))
        task = widest_task(family)
        loaded = load_model(checkpoint, task)
        change(loaded.backbone)
        tokenizer = checkpoint.path / "tokenizer.json"
        samples = check_samples(tokenizer, loaded.inputs, VOCAB_SIZE, 40)
        streams = count_blocks(loaded)
        config = AdapterConfig(
            hidden_size=32,
            layers=tuple(range(len(streams))),
            encoder_layers=streams.count("encoder") if family in ENCODER_DECODERS else 0,
            causal=task != "classification",
            task=task,
            num_outputs=2 if task == "classification" else VOCAB_SIZE,
            **{"reduction": 2, **shape},
        )
        tensors = pruned_tensors(loaded, samples, config)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        if not observed:
            return config, arrays
        return config, arrays, observe_stacks(loaded, samples)[0]

    return prune


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_has_a_start_but_constants_and_the_pooled_head(family, prune):
    config, tensors = prune(family)
    shapes = {name: tuple(p.shape) for name, p in ParallelAdapter(config).named_parameters()}
    left = {name: shape for name, shape in shapes.items() if name not in tensors}
    assert {name.rpartition("encoder.")[2].rpartition("decoder.")[2] for name in left} <= {
        *("up.weight", "gate", "head.weight", "head.bias")
    }
    assert {name: array.shape for name, array in tensors.items()} == {
        name: shape for name, shape in shapes.items() if name not in left
    }
    assert all(np.isfinite(array).all() and array.any() for array in tensors.values())


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_every_layer_of_a_stack_reads_the_same_channels_with_unit_variance(family, prune):
    config, tensors = prune(family)
    for stack in config.stacks:
        down = tensors[f"{stack.prefix}down.weight"]
        rows, columns = np.nonzero(down[0])
        assert len(set(rows)) == WIDTH
        assert columns.tolist() == list(range(WIDTH))
        for layer in down:
            assert np.array_equal(np.nonzero(layer), (rows, columns))
            # Normalized states have a mean square of 1; the chosen channels' may differ.
            assert 0.2 < layer.max() * config.down_scale < 5


def test_planted_channels_heads_and_neurons_are_found(prune):
    def plant(model):
        for layer in model.layers:
            kept = torch.zeros(32).index_fill_(0, CHANNELS, 1)
            layer.input_layernorm.weight.mul_(kept)
            layer.post_attention_layernorm.weight.mul_(kept)
            heads = torch.zeros(32)
            heads[HEAD] = 1
            layer.self_attn.o_proj.weight.mul_(heads)
            layer.mlp.down_proj.weight.mul_(torch.zeros(96).index_fill_(0, NEURONS, 1))
        planted.append(model)

    planted = []
    _, tensors = prune("llama", plant, reduction=4)
    down = tensors["down.weight"][0]
    rows = torch.from_numpy(np.nonzero(down)[0])
    assert set(rows.tolist()) < set(CHANNELS.tolist())
    layer = planted[0].layers[1]
    out = layer.self_attn.o_proj.weight.t()[HEAD][:, rows].numpy()
    assert_proportional(tensors["blocks.1.out.weight"], out)
    # The second key head serves the third and fourth query heads.
    value = layer.self_attn.v_proj.weight.t()[rows][:, 8:16].numpy()
    found = tensors["blocks.1.qkv.weight"][:, 16:]
    ratios = found / value
    assert np.allclose(ratios, ratios[:, :1], rtol=1e-3)  # one factor a residual channel
    neurons = layer.mlp.down_proj.weight.t()[NEURONS][:, rows].numpy()
    directions = {tuple(np.sign(row)) for row in neurons}
    fc2 = tensors["blocks.1.fc2.weight"]
    assert all(tuple(np.sign(row)) in directions for row in fc2)


def assert_proportional(found, expected):
    factor = (found * expected).sum() / np.square(expected).sum()
    assert factor > 0
    assert np.allclose(found, factor * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert", "t5"])
def test_with_nothing_removed_the_side_block_computes_what_the_layer_does(family, prune):
    """Values, keys and queries, read by way of the hidden states and the down-projection."""
    config, tensors, stack = prune(family, reduction=1, observed=True)
    prefix, state = config.stacks[0].prefix, stack.states[0]
    read = side_state(config, prefix, tensors, state)
    qkv = read @ torch.from_numpy(tensors[f"{prefix}blocks.0.qkv.weight"])
    maps = stack.layers[0].attention
    for found, linear in zip(qkv.split(32, 1), (maps.q, maps.k, maps.v), strict=True):
        expected = linear.outputs - linear.outputs.mean(0)
        found = found - found.mean(0)
        repeats = 32 // expected.shape[1]
        expected = expected.view(len(expected), -1, 8).repeat_interleave(repeats, 1).flatten(1)
        # T5 divides no scores, so its queries are larger than the backbone's.
        plain = family == "t5" and linear is maps.q
        assert float(found.std() / expected.std()) == pytest.approx(
            8**0.5 if plain else 1, rel=0.01
        )
        assert float((found * expected).mean() / found.std() / expected.std()) > 0.9


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_feed_forward_part_adds_little_at_first_and_its_inputs_keep_their_means(family, prune):
    config, tensors, stack = prune(family, observed=True)
    read = side_state(config, "", tensors, stack.states[0])
    weight, bias, back = (
        torch.from_numpy(tensors[f"blocks.0.{name}"])
        for name in ("fc1.weight", "fc1.bias", "fc2.weight")
    )
    inner = read @ weight + bias
    means = stack.layers[0].fc1.outputs.mean(0)
    assert all(float((means - mean).abs().min()) < 1e-4 for mean in inner.mean(0))
    branch = torch.nn.functional.silu(inner) @ back
    assert float((branch - branch.mean(0)).square().mean().sqrt()) == pytest.approx(0.3, rel=0.01)


def side_state(config, prefix, tensors, state):
    """The input of block 0, if it reads the embeddings alone."""
    normed = torch.nn.functional.layer_norm(state, state.shape[-1:], eps=1e-5)
    down = torch.from_numpy(tensors[f"{prefix}down.weight"][0])
    side = normed @ down * config.down_scale + torch.from_numpy(tensors[f"{prefix}down.bias"][0])
    return torch.nn.functional.layer_norm(side, side.shape[-1:], eps=1e-5)


def test_side_heads_get_heads_of_their_own(prune):
    """Two of eight channels are two heads of the backbone's: no row of the output twice."""
    config, tensors = prune("llama", num_heads=2)
    assert config.width == WIDTH
    assert np.linalg.matrix_rank(tensors["blocks.0.out.weight"]) == WIDTH


def test_a_width_beyond_the_heads_is_refused(prune):
    with pytest.raises(UsageError, match="needs 6 of the backbone's heads, which has 4"):
        prune("bert", reduction=1, num_heads=3)


def test_an_untrained_language_model_keeps_its_output(prune):
    config, tensors = prune("llama")
    rng = np.random.default_rng(0)
    head = FrozenHead(weight=rng.normal(size=(VOCAB_SIZE, 32)).astype(np.float32))
    hidden = rng.normal(size=(len(config.layers), 2, 6, 32)).astype(np.float32)
    targets = rng.integers(0, VOCAB_SIZE, (2, 6))
    batch = Batch(
        hidden=hidden,
        lengths=np.array([6, 6]),
        second_starts=np.zeros(2, np.int64),
        targets=targets,
    )
    trainer = Trainer(config, TrainingOptions(), 4, head=head, initial=write_tensors(tensors))
    logits = torch.from_numpy(hidden[-1] @ head.weight.T)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="sum"
    )
    assert trainer.outputs(batch)[:, 0].sum() == pytest.approx(float(expected), rel=1e-5)
    before = trainer.gradients(batch)
    for _ in range(4):
        trainer.apply(trainer.flat_gradient / np.float32(batch.count))
        after = trainer.gradients(batch)
    assert after < before


def test_a_model_whose_layers_are_named_otherwise_is_refused(prune):
    def rename(model):
        for layer in model.layers:
            layer.feed = layer.mlp
            layer.mlp = torch.nn.Identity()

    with pytest.raises(PacplusError, match="cannot be pruned; export with --adapter-init random"):
        prune("llama", rename)


def test_too_narrow_adapters_and_too_many_heads_are_refused_at_once(tiny_model):
    config = find_checkpoint(str(tiny_model("bert")), Path("scratch")).config
    with pytest.raises(UsageError, match="--adapter-reduction 64: reduction 64 leaves 0 channels"):
        check_shape(PrunedAdapter(reduction=64), config)
    with pytest.raises(UsageError, match="--adapter-heads 5: the model has only 4"):
        check_shape(PrunedAdapter(reduction=1, num_heads=5), config)


def test_calibration_text_is_the_first_lines_that_are_not_blank(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\nthe cat\n\n" + "a dog\n" * 300, "utf-8")
    lines = read_calibration(file)
    assert (len(lines), lines[0]) == (256, "the cat")
    file.write_text("\n \n", "utf-8")
    with pytest.raises(BadInputError, match="has no text"):
        read_calibration(file)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_calibration(tmp_path / "absent.txt")
