from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edge_runtime.contract.errors import BadInputError, PacplusError, UsageError
from edge_runtime.contract.manifest import InputSpec, Parity
from export import bundle as bundle_module
from export.bundle import export_model
from export.partition.blocks import block_slices, write_weights
from export.tracing.trace import trace
from export.verify.parity import LIMITS, check_parity, relative_error


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_minilm_is_within_the_limits(quantize, minilm_bundle):
    parity = minilm_bundle(quantize).manifest.parity
    assert parity.limit == {"none": 1e-3, "int8": 0.12}[quantize]
    assert parity.worst <= parity.limit
    assert parity.tokens > 500
    assert len(parity.per_state) == 7


@pytest.mark.parametrize("block", [0, 3])
def test_int8_takes_a_quarter_of_the_bytes(block, minilm_bundle):
    sizes = [minilm_bundle(q).manifest.blocks[block].weight_bytes for q in ("none", "int8")]
    assert sizes[1] < 0.27 * sizes[0]


def test_exporting_twice_from_two_places_gives_the_same_bundle(tiny_bundle, tiny_model, tmp_path):
    moved = tmp_path / "elsewhere" / tiny_model("bert").name
    shutil.copytree(tiny_model("bert"), moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "trace", trace)  # not the tests' shared one
        again = export_model(str(moved), tmp_path / "again", quantize="int8")
    first = tiny_bundle("bert", "int8")
    assert again.manifest.digest == first.manifest.digest
    for file in first.manifest.files:
        assert again.file_path(file).read_bytes() == first.file_path(file).read_bytes()


def test_the_backbone_digest_tells_weights_and_quantization_apart(
    tiny_bundle, tiny_model, tmp_path, monkeypatch
):
    bundles = [tiny_bundle("bert", "none"), tiny_bundle("bert", "int8")]
    shared = bundle_module.trace

    def one_bit_off(*arguments):
        graph = shared(*arguments)
        weight = graph.graph.initializers["model.embeddings.word_embeddings.weight"]
        array = weight.const_value.numpy().copy()
        array[5, 5] = np.nextafter(array[5, 5], np.float32(9))
        weight.const_value = ir.Tensor(array, name=weight.name)
        return graph

    monkeypatch.setattr(bundle_module, "trace", one_bit_off)
    bundles.append(export_model(str(tiny_model("bert")), tmp_path / "other"))
    digests = {bundle.manifest.backbone_digest for bundle in bundles}
    assert len(digests) == 3


def test_the_task_changes_the_bundle_and_not_the_backbone(tiny_bundle, tiny_model, tmp_path):
    other = export_model(str(tiny_model("bert")), tmp_path / "out", task="regression")
    first = tiny_bundle("bert", "none").manifest
    assert other.manifest.digest != first.digest
    assert other.manifest.backbone_digest == first.backbone_digest


def test_weight_files_are_named_by_block_and_content(tiny_bundle):
    manifest = tiny_bundle("distilbert", "int8").manifest
    assert [block.name for block in manifest.blocks] == ["embeddings", "layer.0", "layer.1"]
    for block in manifest.blocks:
        (path,) = block.weights
        assert path == f"weights/{block.name}-{manifest.file(path).sha256[:12]}.bin"
    assert len({block.block_class for block in manifest.blocks[1:]}) == 1
    assert manifest.blocks[0].block_class != manifest.blocks[1].block_class


def test_a_weight_of_several_blocks_has_a_file_of_its_own(tmp_path):
    def value(name):
        tensor = ir.Tensor(np.full((64, 64), len(name), np.float32), name=name)
        return ir.Value(name=name, const_value=tensor, shape=tensor.shape)

    x = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([64]))
    own, both = value("own"), value("shared")
    nodes = [ir.node("Add", [x, own]), ir.node("Mul", [x, both])]
    nodes.append(ir.node("Add", [nodes[0].outputs[0], nodes[1].outputs[0]]))
    nodes.append(ir.node("Mul", [nodes[2].outputs[0], both]))
    for index in (0, 1):
        nodes[2 + index].outputs[0].name = f"hidden.{index}"
    graph = ir.Graph(
        [x], [nodes[2].outputs[0], nodes[3].outputs[0]], nodes=nodes, initializers=[own, both]
    )
    inputs = (InputSpec(name="input_ids", dtype="int64", kind="tokens"),)
    slices = block_slices(ir.Model(graph, ir_version=10), inputs, ["encoder", "encoder"])
    paths, files = write_weights(slices, tmp_path)
    assert len(files) == 2
    (shared,) = paths["layer.0"]
    assert shared.startswith("weights/shared.0-")
    assert set(paths["embeddings"]) == {file.path for file in files}


def test_max_length_is_what_positions_and_tokenizer_allow(tiny_bundle, tiny_model, tmp_path):
    assert tiny_bundle("bert", "none").manifest.max_length == 80
    assert tiny_bundle("roberta", "none").manifest.max_length == 79
    short = Path(shutil.copytree(tiny_model("bert"), tmp_path / "short"))
    (short / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 40}))
    assert export_model(str(short), tmp_path / "out").manifest.max_length == 40
    with pytest.raises(UsageError, match="between 1 and 80"):
        export_model(str(short), tmp_path / "never", max_length=81)


def test_bad_models_are_refused_in_one_line_and_leave_nothing(tiny_model, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {str(empty): "no config.json", str(tmp_path / "absent"): "no such folder"}

    def variant(name, message):
        cases[str(tmp_path / name)] = message
        return Path(shutil.copytree(tiny_model("bert"), tmp_path / name))

    (variant("not-json", "not JSON") / "config.json").write_text("{")
    (variant("no-type", "model_type is missing") / "config.json").write_text("{}")
    (variant("mamba", "supported are bart, bert,") / "config.json").write_text(
        json.dumps({"model_type": "mamba"})
    )
    (variant("no-weights", "weights cannot be loaded") / "model.safetensors").unlink()
    (variant("torn", "weights cannot be loaded") / "model.safetensors").write_bytes(b"torn")
    config = variant("deeper", "not in the checkpoint") / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')
    )
    for model, message in cases.items():
        with pytest.raises(BadInputError, match=message) as caught:
            export_model(model, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_tokenizer_that_cannot_be_had_is_bad_input(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model("bert"), tmp_path / "mute"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"tokenizer\.json"):
        export_model(str(folder), tmp_path / "out")


def test_an_output_folder_with_something_in_it_is_left_alone(tiny_model, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(BadInputError, match="not an empty folder"):
        export_model(str(tiny_model("bert")), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_an_export_that_is_off_fails_and_leaves_nothing(
    tiny_model, traced_once, tmp_path, monkeypatch
):
    def wrong(model, *_arguments):
        for value in model.graph.initializers.values():
            if value.shape is not None and value.shape.rank() == 2:
                value.const_value = ir.Tensor(value.const_value.numpy() * 2, name=value.name)
        return ()

    monkeypatch.setattr(bundle_module, "quantize_backbone", wrong)
    with pytest.raises(PacplusError, match="the exported graph is off"):
        export_model(str(tiny_model("bert")), tmp_path / "out", quantize="int8")
    assert not list(tmp_path.iterdir())


def test_options_that_do_not_fit_are_usage_errors(tiny_model, tmp_path):
    with pytest.raises(UsageError, match="classification or regression"):
        export_model(str(tiny_model("bert")), tmp_path / "out", task="causal-lm")
    with pytest.raises(UsageError, match="none, int8"):
        export_model(str(tiny_model("bert")), tmp_path / "out", quantize="int2")


def test_parity_is_relative_rms_after_layer_normalization():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((4, 1000))
    noise = rng.standard_normal((4, 1000))
    np.testing.assert_allclose(relative_error(3 * reference + 7, reference), 0, atol=1e-9)
    error = relative_error(reference + 0.01 * noise, reference)
    np.testing.assert_allclose(error, 0.01, rtol=0.1)


@pytest.mark.parametrize("worst", [0.1201, float("nan")])
def test_parity_beyond_the_limit_or_undefined_is_refused(worst):
    parity = Parity(worst=worst, limit=LIMITS["int8"], per_state=(0.0, worst), tokens=1)
    with pytest.raises(PacplusError, match="hidden state 1"):
        check_parity(parity)
