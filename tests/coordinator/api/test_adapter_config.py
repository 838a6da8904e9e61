import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from coordinator.api.adapter_config import (
    AdapterChoice,
    DataTraits,
    adapter_config,
    added_layers,
    check_initial_weights,
    parse_layers,
    task_for,
)
from edge_runtime.contract.adapter import INITIAL_SHAPE, AdapterConfig, initial_shape
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FileSpec, HeadSpec, Manifest
from tests.coordinator.bundles import IDS, MASK, manifest

HEAD = HeadSpec(path="head.safetensors", vocab_size=50, scale=0.5, softcap=30.0)
FILES = tuple(
    FileSpec(path=path, bytes=1, sha256=Sha256("ab" * 32))
    for path in ("head.safetensors", "adapter_init.safetensors")
)


def model(encoder: int, decoder: int, *, head: bool = True, task: str = "causal-lm") -> Manifest:
    """A manifest with so many blocks in each stack."""
    plain = manifest(IDS, MASK)
    streams = ["encoder"] * encoder + ["decoder"] * decoder
    blocks = tuple(
        dataclasses.replace(plain.blocks[0], name=f"block.{i}", stream=stream)
        for i, stream in enumerate(streams)
    )
    return dataclasses.replace(
        plain,
        task=task,
        hidden_size=16,
        blocks=blocks,
        files=FILES,
        head=HEAD if head else None,
    )


ENCODER = model(3, 0, head=False, task="classification")
DECODER = model(0, 4)
BOTH = model(3, 4, task="seq2seq")


@pytest.mark.parametrize(
    ("bundle", "tasks"),
    [
        (ENCODER, {"classification", "regression"}),
        (DECODER, {"classification", "regression", "causal-lm"}),
        (model(0, 4, head=False), {"classification", "regression"}),
        (BOTH, {"seq2seq"}),
        (model(3, 4, head=False), set()),
    ],
)
def test_a_bundle_can_be_trained_for_what_its_stacks_allow(bundle, tasks):
    for task in ("classification", "regression", "causal-lm", "seq2seq"):
        if task in tasks:
            assert task_for(bundle, task) == task
        else:
            with pytest.raises(BadInputError, match=f"export .* with --task {task}"):
                task_for(bundle, task)


@pytest.mark.parametrize("bundle", [ENCODER, DECODER, BOTH])
def test_the_task_is_the_bundles_unless_another_is_wanted(bundle):
    assert task_for(bundle, None) == bundle.task


def test_a_causal_language_model_writes_its_vocabulary_through_the_frozen_head():
    config = adapter_config(DECODER, "causal-lm", AdapterChoice(), DataTraits())
    assert (config.num_outputs, config.logit_scale, config.logit_softcap) == (50, 0.5, 30.0)
    assert config.causal
    assert (config.layers, config.encoder_layers) == ((0, 1, 2, 3), 0)


def test_a_decoder_that_classifies_is_pooled_and_looks_both_ways():
    traits = DataTraits(labels=("a", "b", "c"))
    config = adapter_config(DECODER, "classification", AdapterChoice(), traits)
    assert (config.num_outputs, config.causal, config.logit_scale) == (3, False, 1.0)


def test_an_encoder_decoder_reads_both_stacks():
    choice = AdapterChoice(layers="every:2", num_heads=2, reduction=4, kind="mlp")
    config = adapter_config(BOTH, "seq2seq", choice, DataTraits())
    assert (config.layers, config.encoder_layers) == ((0, 2, 4, 6), 2)
    assert (config.num_heads, config.reduction, config.kind) == (2, 4, "mlp")
    assert config.causal


def test_regression_is_standardized():
    traits = DataTraits(values=np.array([1, 2, 6], np.float32))
    config = adapter_config(ENCODER, "regression", AdapterChoice(), traits)
    assert (config.num_outputs, config.target_mean) == (1, 3.0)


def test_pruned_weights_must_be_in_the_bundle():
    choice = AdapterChoice(initialization="pruned")
    with pytest.raises(BadInputError, match="pacplus export --adapter-init pruned"):
        adapter_config(DECODER, "causal-lm", choice, DataTraits())
    has = dataclasses.replace(DECODER, adapter_init="adapter_init.safetensors")
    assert adapter_config(has, "causal-lm", choice, DataTraits()).initialization == "pruned"


@pytest.mark.parametrize(
    ("bundle", "task", "kind"),
    [
        (DECODER, "causal-lm", "pointer"),
        (DECODER, "classification", "attention"),
        (ENCODER, "regression", "attention"),
        (BOTH, "seq2seq", "attention"),
    ],
)
def test_the_kind_is_the_tasks_unless_another_is_wanted(bundle, task, kind):
    traits = DataTraits(labels=("a", "b"), values=np.array([1, 2], np.float32))
    assert adapter_config(bundle, task, AdapterChoice(), traits).kind == kind
    assert adapter_config(bundle, task, AdapterChoice(kind="mlp"), traits).kind == "mlp"


def test_heads_and_pruned_weights_are_of_attention():
    has = dataclasses.replace(DECODER, adapter_init="adapter_init.safetensors")
    for changes in ({"num_heads": 2}, {"initialization": "pruned"}):
        choice = AdapterChoice(**changes)
        assert adapter_config(has, "causal-lm", choice, DataTraits()).kind == "attention"
        with pytest.raises(BadInputError, match="leave out --adapter-heads and --adapter-init"):
            adapter_config(has, "causal-lm", AdapterChoice(kind="pointer", **changes), DataTraits())


@pytest.mark.parametrize(
    ("bundle", "task"), [(DECODER, "classification"), (ENCODER, "regression"), (BOTH, "seq2seq")]
)
def test_a_pointer_is_for_decoder_only_language_models(bundle, task):
    traits = DataTraits(labels=("a", "b"), values=np.array([1, 2], np.float32))
    with pytest.raises(BadInputError, match=f"not for {task}; train with --adapter attention or"):
        adapter_config(bundle, task, AdapterChoice(kind="pointer"), traits)


ONE, TWO = (range(7),), (range(3), range(3, 7))


@pytest.mark.parametrize(
    ("text", "stacks", "layers"),
    [
        ("all", ONE, (0, 1, 2, 3, 4, 5, 6)),
        ("every:1", ONE, (0, 1, 2, 3, 4, 5, 6)),
        ("every:2", ONE, (0, 2, 4, 6)),
        ("every:4", ONE, (2, 6)),
        ("every:9", ONE, (6,)),
        ("6", ONE, (6,)),
        ("3,1", ONE, (1, 3, 6)),
        ("1, 1 ,6", ONE, (1, 6)),
        ("all", TWO, (0, 1, 2, 3, 4, 5, 6)),
        ("every:2", TWO, (0, 2, 4, 6)),
        ("every:3", TWO, (2, 3, 6)),
        ("every:9", TWO, (2, 6)),
        ("4", TWO, (2, 4, 6)),
    ],
)
def test_layers_are_ascending_and_have_the_last_of_each_stack(text, stacks, layers):
    assert parse_layers(text, stacks) == layers


@pytest.mark.parametrize("stacks", [ONE, TWO])
@pytest.mark.parametrize("text", ["", "some", "every:", "every:0", "every:-1", "7", "-1", "1,,2"])
def test_layers_that_are_not_there_are_bad_input(text, stacks):
    with pytest.raises(BadInputError, match=r"all, every:K, or numbers from 0 to 6"):
        parse_layers(text, stacks)


@pytest.mark.parametrize(
    ("text", "added"), [("all", ()), ("every:9", ()), ("4", (2, 6)), ("2,6", ()), ("0,6", (2,))]
)
def test_what_a_list_lacks_is_known(text, added):
    assert added_layers(text, parse_layers(text, TWO)) == added


PRUNED = AdapterConfig(
    hidden_size=16, layers=(0, 1), task="regression", num_outputs=1, initialization="pruned"
)


def save_initial(folder, metadata):
    data = safetensors.numpy.save({"gate": np.zeros(1, np.float32)}, metadata)
    (folder / "adapter_init.safetensors").write_bytes(data)
    return dataclasses.replace(ENCODER, adapter_init="adapter_init.safetensors")


def as_one_entry(shape):
    return {INITIAL_SHAPE: json.dumps(shape)}


@pytest.mark.parametrize("written", [as_one_entry, dict], ids=["now", "before"])
def test_initial_weights_serve_the_shape_that_they_were_made_for(tmp_path, written):
    bundle = save_initial(tmp_path, written(initial_shape(PRUNED)))
    check_initial_weights(tmp_path, bundle, PRUNED)
    with pytest.raises(BadInputError, match=r"--reduction 8 .* --adapter-reduction 4"):
        check_initial_weights(tmp_path, bundle, dataclasses.replace(PRUNED, reduction=4))


@pytest.mark.parametrize("metadata", [{INITIAL_SHAPE: "{"}, {INITIAL_SHAPE: "[1]"}])
def test_damaged_initial_weights_are_bad_input(tmp_path, metadata):
    bundle = save_initial(tmp_path, metadata)
    with pytest.raises(BadInputError, match=r"adapter_init\.safetensors: cannot be read"):
        check_initial_weights(tmp_path, bundle, PRUNED)
    (tmp_path / "adapter_init.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(BadInputError, match=r"adapter_init\.safetensors: cannot be read"):
        check_initial_weights(tmp_path, bundle, PRUNED)
