"""One ONNX file says what backbone stages and the PyTorch adapter say together."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions, adapter_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.inference.session import Numerics
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch, Predictor, Trainer
from export.adapter import merge
from export.partition.stages import GRAPH
from export.verify.ort_session import Graph
from tests.edge_runtime.parallel_adapters import samples
from tests.export.helpers import lay_out, lay_out_paired, run_as_it_is

LENGTHS = {"encoder": np.array([7, 1, 4]), "decoder": np.array([3, 6, 1])}


@pytest.fixture(params=["tiny bert in int8", "pairs", "regression", "some layers"])
def pooled(request, tiny_bundle):
    changes = {
        "tiny bert in int8": {},
        "pairs": {"pair": True},
        "regression": {"task": "regression", "num_outputs": 1, "target_mean": 3.5, "labels": ()},
        "some layers": {"layers": (1, 3)},
    }[request.param]
    return trained(tiny_bundle("bert", "int8"), **changes)


LANGUAGE = [
    *("llama-none", "llama-int8", "gemma2-none", "t5-none", "flan-t5-none"),
    # qwen2's head is tied to its embeddings; gemma2's logits are capped before anything is added.
    *("pointer-llama-none", "pointer-llama-int8", "pointer-qwen2-none", "pointer-gemma2-none"),
]


@pytest.fixture(params=LANGUAGE)
def language(request, tiny_bundle):
    name = request.param.removeprefix("pointer-")
    changes = {} if name == request.param else {"kind": "pointer"}
    return trained(tiny_bundle(*name.rsplit("-", 1)), **changes)


def trained(bundle, **changes):
    """A bundle with a random adapter for it: configuration, weights and the frozen head."""
    manifest = bundle.manifest
    head_spec = manifest.head
    config = AdapterConfig(
        hidden_size=manifest.hidden_size,
        layers=tuple(range(len(manifest.blocks))),
        task=manifest.task,
        num_outputs=head_spec.vocab_size if head_spec else 3,
        labels=() if head_spec else ("no", "maybe", "yes"),
        bundle_digest=manifest.digest,
    )
    if head_spec:
        config = dataclasses.replace(
            config,
            causal=True,
            encoder_layers=len(manifest.layers_of("encoder")),
            logit_scale=head_spec.scale,
            logit_softcap=head_spec.softcap,
        )
    config = dataclasses.replace(config, **changes)
    head = FrozenHead.open(bundle.path / head_spec.path, config) if head_spec else None
    trainer = samples.moved(Trainer(config, TrainingOptions(), 1, head=head), 0.3)
    return bundle, config, adapter_weights(trainer.state()), head


def merged(tmp_path, bundle, config, weights, _head=None):
    return merge.merge_model(bundle, config, weights, tmp_path / "model.onnx")


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def feeds(manifest):
    """Samples of unequal lengths in every sequence; padding holds strangers."""
    random = np.random.default_rng(0)
    fed = {}
    for spec in manifest.inputs:
        lengths = LENGTHS[spec.stream]
        tokens = int(lengths.max())
        ids = random.integers(4, 20, (len(lengths), tokens))
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        segments = np.zeros_like(mask)
        fed[spec.name] = mask if spec.kind == "mask" else ids
        if spec.name == "token_type_ids":
            fed[spec.name] = segments
    return fed


def batch_of(bundle, config, fed, targets=None, states=None):
    """The states that the whole backbone makes of it, for the PyTorch adapter."""
    found = states or Graph(bundle.path / GRAPH).run(fed)
    states = [found[f"hidden.{layer}"] for layer in config.layers]
    own, encoder = states[config.encoder_layers :], {}
    if config.encoder_layers:
        encoder = {
            "encoder_hidden": np.stack(states[: config.encoder_layers]),
            "encoder_lengths": LENGTHS["encoder"],
        }
    count = len(own[0])
    if targets is None:
        targets = np.zeros(count, np.int64)
    lengths = LENGTHS[bundle.manifest.output_stream]
    if config.copies:
        (ids,) = (fed[spec.name] for spec in bundle.manifest.inputs if spec.kind == "tokens")
        encoder["tokens"] = ids * (np.arange(ids.shape[1]) < lengths[:, None])
    return Batch(
        hidden=np.stack(own),
        lengths=lengths,
        second_starts=np.array([3, 0, 2]) * config.pair,
        targets=targets,
        **encoder,
    )


def test_labels_and_values_are_those_of_the_pytorch_adapter(pooled, tmp_path):
    bundle, config, weights, _ = pooled
    fed = feeds(bundle.manifest)
    batch = batch_of(bundle, config, fed)
    expected = Predictor(config, weights).outputs(batch)

    model = merged(tmp_path, *pooled)
    if config.pair:
        fed["second_starts"] = batch.second_starts
    assert model.inputs == tuple(fed)
    (found,) = session(model.path).run([model.output], fed)
    assert model.output == ("values" if config.task == "regression" else "logits")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.05


def test_logits_of_every_token_are_those_of_the_pytorch_adapter(language, tmp_path):
    bundle, config, weights, head = language
    fed = feeds(bundle.manifest)
    lengths = LENGTHS["decoder"]
    targets = np.random.default_rng(1).integers(0, config.num_outputs, (3, lengths.max()))
    targets[np.arange(lengths.max()) >= lengths[:, None]] = -1
    batch = batch_of(bundle, config, fed, targets)
    expected = Predictor(config, weights, head=head).outputs(batch)

    model = merged(tmp_path, *language)
    assert model.inputs == tuple(fed)
    (logits,) = session(model.path).run(["logits"], fed)
    assert logits.shape == (3, lengths.max(), config.num_outputs)
    wide = logits.astype(np.float64)
    own = np.take_along_axis(wide, targets[..., None], 2)[..., 0]
    losses = np.log(np.exp(wide).sum(-1)) - own
    counted = targets >= 0
    np.testing.assert_allclose((losses * counted).sum(1), expected[:, 0], rtol=1e-4)
    hits = ((own == wide.max(-1)) & counted).sum(1)  # capped logits may be equal
    np.testing.assert_array_equal(hits, expected[:, 2])


@pytest.mark.parametrize("kind", ["attention", "pointer"])
def test_an_untrained_adapter_leaves_the_models_own_logits(kind, tiny_bundle, tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    bundle, config, _, head = trained(tiny_bundle("llama", "none"), kind=kind)
    untrained = adapter_weights(Trainer(config, TrainingOptions(), 1, head=head).state())
    fed = feeds(bundle.manifest)
    (found,) = session(merged(tmp_path, bundle, config, untrained).path).run(["logits"], fed)
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama")).eval()
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(each) for name, each in fed.items()}).logits
    tokens = fed["attention_mask"].astype(bool)
    np.testing.assert_allclose(found[tokens], expected.numpy()[tokens], atol=1e-4)


def test_the_model_is_whole_and_says_what_it_is(pooled, tmp_path):
    bundle, config, _, _ = pooled
    model = merged(tmp_path, *pooled)
    moved = model.path.rename(tmp_path / "elsewhere.onnx")
    onnx.checker.check_model(str(moved))
    said = session(moved).get_modelmeta().custom_metadata_map
    assert said["task"] == config.task
    assert json.loads(said["labels"]) == list(config.labels)
    assert said["base_model"] == bundle.manifest.model_id
    assert said["max_length"] == str(bundle.manifest.max_length)
    assert said["bundle_digest"] == bundle.manifest.digest
    assert model.data is None
    assert model.bytes == moved.stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere.onnx"]


def test_a_language_model_says_where_texts_begin_and_end(language, tmp_path):
    said = session(merged(tmp_path, *language).path).get_modelmeta().custom_metadata_map
    manifest = language[0].manifest
    assert json.loads(said["eos_token_ids"]) == list(manifest.eos_token_ids)
    start = manifest.decoder_start_token_id
    assert said.get("decoder_start_token_id") == (None if start is None else str(start))


def test_states_that_nobody_reads_are_not_computed(tiny_bundle, tmp_path):
    bundle, config, weights, head = trained(tiny_bundle("bert", "int8"), layers=(1, 3))
    graph = onnx.load(merged(tmp_path, bundle, config, weights, head).path).graph
    assert [value.name for value in graph.output] == ["logits"]
    states = [node.input[0] for node in graph.node if node.name.startswith("adapter/hidden.")]
    assert states == ["hidden.1", "hidden.3"]


@pytest.mark.parametrize("kernel", ["fast", "paired", "exact"])
def test_int8_weights_have_the_form_that_a_device_serves_here(
    kernel, tiny_bundle, tmp_path, monkeypatch
):
    bundle, config, weights, _ = trained(tiny_bundle("bert", "int8"))
    blocks = len(bundle.manifest.blocks)
    monkeypatch.setattr(merge, "numerics", lambda: Numerics(runtime="this", kernel=kernel))
    model = merged(tmp_path, bundle, config, weights)
    assert session(model.path).get_modelmeta().custom_metadata_map["int8_form"] == kernel
    assert model.notes == ((merge.WHERE_FAST,) if kernel == "fast" else ())
    lay_out_form = lay_out_paired if kernel == "paired" else lay_out
    options = {"exact": True} if kernel == "exact" else {}
    stage = lay_out_form(bundle, 0, blocks, tmp_path / "stage", **options)
    fed = feeds(bundle.manifest)
    batch = batch_of(bundle, config, fed, states=run_as_it_is(stage, fed))
    (found,) = session(model.path).run([model.output], fed)
    np.testing.assert_allclose(found, Predictor(config, weights).outputs(batch), atol=1e-5)


def test_weights_that_cannot_be_limited_get_the_exact_form(tiny_bundle, tmp_path, monkeypatch):
    bundle, config, weights, _ = trained(tiny_bundle("bert", "int8"))
    monkeypatch.setattr(merge, "numerics", lambda: Numerics(runtime="this", kernel="paired"))
    monkeypatch.setattr(merge, "use_limited_weights", lambda *_: False)
    model = merged(tmp_path, bundle, config, weights)
    assert session(model.path).get_modelmeta().custom_metadata_map["int8_form"] == "exact"


def test_without_int8_products_there_is_nothing_to_choose(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "numerics", lambda: pytest.fail("asked"))
    model = merged(tmp_path, *trained(tiny_bundle("llama", "none")))
    assert "int8_form" not in session(model.path).get_modelmeta().custom_metadata_map


def test_a_head_that_is_tied_to_the_embeddings_is_stored_once(tiny_bundle, tmp_path):
    sizes = {}
    for family in ("llama", "qwen2"):  # the latter is tied
        bundle, config, weights, _ = trained(tiny_bundle(family, "none"))
        folder = tmp_path / family
        graph = onnx.load(merge.merge_model(bundle, config, weights, folder / "m.onnx").path).graph
        shape = [config.num_outputs, config.hidden_size]
        sizes[family] = sum(list(tensor.dims) == shape for tensor in graph.initializer)
    assert sizes == {"llama": 2, "qwen2": 1}


def test_weights_of_a_large_model_lie_beside_it(language, tmp_path, monkeypatch):
    whole = merged(tmp_path, *language)
    monkeypatch.setattr(merge, "MAX_INSIDE_BYTES", 1000)
    bundle, config, weights, _ = language
    split = merge.merge_model(bundle, config, weights, tmp_path / "large" / "model.onnx")
    assert split.data == tmp_path / "large" / "model.onnx.data"
    assert split.path.stat().st_size < whole.bytes - 10_000
    assert split.bytes == split.path.stat().st_size + split.data.stat().st_size
    modes = [path.stat().st_mode & 0o777 for path in (whole.path, split.path, split.data)]
    assert modes == [0o600] * 3
    fed = feeds(bundle.manifest)
    results = [session(model.path).run(None, fed)[0] for model in (whole, split)]
    np.testing.assert_array_equal(*results)


def test_nothing_is_overwritten_and_nothing_half_written(tiny_bundle, tmp_path):
    bundle, config, weights, _ = trained(tiny_bundle("bert", "int8"))
    output = tmp_path / "model.onnx"
    other = dataclasses.replace(config, reduction=4)
    with pytest.raises(BadInputError, match=r"'down\.weight' has shape"):
        merge.merge_model(bundle, other, weights, output)
    assert list(tmp_path.iterdir()) == []
    beside = tmp_path / "model.onnx.data"
    beside.write_text("mine")
    with pytest.raises(BadInputError, match=r"model\.onnx\.data: exists; choose another -o"):
        merge.merge_model(bundle, config, weights, output)
    assert beside.read_text() == "mine"
    beside.unlink()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"file/model\.onnx: cannot be written"):
        merge.merge_model(bundle, config, weights, tmp_path / "file" / "model.onnx")


def test_a_folder_is_no_place_for_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"is a folder; name a file: -o model\.onnx"):
        merge.check_output(Path())


def test_a_disk_without_room_is_seen_before_the_graphs_are_joined(
    tiny_bundle, tmp_path, monkeypatch
):
    bundle, config, weights, _ = trained(tiny_bundle("bert", "int8"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=9))
    steps = []
    with pytest.raises(BadInputError, match=r"model\.onnx: needs .* make room"):
        merge.merge_model(bundle, config, weights, tmp_path / "model.onnx", progress=steps.append)
    assert steps == list(tmp_path.iterdir()) == []


def test_it_needs_neither_torch_nor_transformers():
    code = "import export.adapter.merge, sys; print({'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
