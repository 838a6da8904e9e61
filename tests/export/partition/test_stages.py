from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.inference.session import matmul_integer_is_exact
from export.partition.stages import Bundle, cut_stage, open_bundle
from export.verify.ort_session import Graph
from tests.export.helpers import lay_out, padded, run_as_it_is
from tests.integer_reference import integer_reference
from tests.models import LAYERS

BLOCKS = LAYERS + 1


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_later_stage_needs_only_the_state_before_it_and_the_mask(family, tiny_bundle):
    bundle = tiny_bundle(family, "int8")
    blocks = len(bundle.manifest.blocks)
    for first in range(1, blocks):
        stage = onnx.load_from_string(cut_stage(bundle, first, blocks))
        fed = [value.name for value in stage.graph.input]
        assert fed == [f"hidden.{first - 1}", "attention_mask"]


def test_a_stage_outputs_every_hidden_state_of_its_blocks(tiny_bundle):
    stage = onnx.load_from_string(cut_stage(tiny_bundle("bert", "none"), 1, 3))
    assert [value.name for value in stage.graph.output] == ["hidden.1", "hidden.2"]


def test_a_stage_carries_no_weights_and_names_just_its_own_files(minilm_bundle):
    bundle = minilm_bundle("int8")
    data = cut_stage(bundle, 2, 4)
    named = {
        entry.value
        for tensor in onnx.load_from_string(data).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert named == {Path(file.path).name for file in bundle.manifest.weight_files(2, 4)}
    assert len(data) < 100_000


@pytest.mark.parametrize("quantize", ["int8", "none"])
def test_a_stage_tells_the_shapes_of_its_inputs_and_outputs_and_of_nothing_between(
    quantize, tiny_bundle
):
    graph = onnx.load_from_string(cut_stage(tiny_bundle("bert", quantize), 1, 3)).graph
    between = {name for node in graph.node for name in node.output}
    assert not between & {value.name for value in graph.value_info}
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.HasField("shape")


def test_cutting_is_the_same_bytes_every_time_and_leaves_the_bundle_as_it_was(tiny_bundle):
    bundle = tiny_bundle("bert", "int8")
    before = cut_stage(bundle, 0, BLOCKS)
    cut_stage(bundle, 1, 2, exact=True)
    assert cut_stage(bundle, 0, BLOCKS) == before
    names = [weight.name for weight in onnx.load_from_string(before).graph.initializer]
    assert names == sorted(names)  # and not in the order of a set, another in each process


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 2), (0, BLOCKS + 1)])
def test_blocks_that_do_not_exist_are_refused(first, last, tiny_bundle):
    with pytest.raises(ValueError, match="of 4"):
        cut_stage(tiny_bundle("bert", "none"), first, last)


def test_the_exact_form_computes_what_int64_does(tiny_bundle, tmp_path):
    bundle = tiny_bundle("bert", "int8")
    batch = padded(bundle, np.arange(5, 25), length=20)
    stage = lay_out(bundle, 0, BLOCKS, tmp_path / "exact", exact=True)
    plain = lay_out(bundle, 0, BLOCKS, tmp_path / "plain")
    states = run_as_it_is(stage, batch)
    for name, expected in integer_reference(plain, batch).items():
        np.testing.assert_allclose(states[name], expected, rtol=0, atol=1e-5)


@pytest.mark.integer
def test_export_computes_the_bits_of_the_exact_form(tiny_bundle, tmp_path):
    bundle = tiny_bundle("bert", "int8")
    batch = padded(bundle, np.arange(5, 25), length=20)
    plain = Graph(lay_out(bundle, 0, BLOCKS, tmp_path / "plain")).run(batch)
    exact = run_as_it_is(lay_out(bundle, 0, BLOCKS, tmp_path / "exact", exact=True), batch)
    for name, state in plain.items():
        np.testing.assert_array_equal(exact[name], state)


def test_where_int8_products_are_exact_both_forms_give_the_same_bits(tiny_bundle, tmp_path):
    bundle = tiny_bundle("bert", "int8")
    batch = padded(bundle, np.arange(5, 25), length=20)
    forms = [
        run_as_it_is(lay_out(bundle, 0, BLOCKS, tmp_path / str(exact), exact=exact), batch)
        for exact in (False, True)
    ]
    same = all(np.array_equal(state, forms[1][name]) for name, state in forms[0].items())
    assert same == matmul_integer_is_exact()


def test_the_exact_form_reads_uint8_weights_around_128_from_files_of_their_own(minilm_bundle):
    stage = onnx.load_from_string(cut_stage(minilm_bundle("int8"), 1, 2, exact=True))
    constants = {tensor.name: tensor for tensor in stage.graph.initializer}
    products = [node for node in stage.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 6
    for node in products:
        weight = constants[node.input[1]]
        assert weight.data_type == onnx.TensorProto.UINT8
        assert weight.external_data[0].value.endswith(".uint8.bin")
        assert onnx.numpy_helper.to_array(constants[node.input[5]]) == 128
    others = {name for node in products for i, name in enumerate(node.input) if i != 1}
    assert not any(".uint8." in str(constants[name]) for name in others & constants.keys())


def copy_of(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def test_one_flipped_byte_in_a_weight_file_is_found_and_named(tiny_bundle, tmp_path):
    path = copy_of(tiny_bundle("bert", "none"), tmp_path)
    weights = next(path.glob("weights/layer.1-*"))
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadInputError, match=rf"{weights.name}: is damaged.*export the model again"):
        open_bundle(path)


def test_a_short_file_is_found_even_without_digests(tiny_bundle, tmp_path):
    path = copy_of(tiny_bundle("bert", "none"), tmp_path)
    weights = next(path.glob("weights/layer.1-*"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInputError, match=rf"{weights.name}: has \d+ bytes instead of"):
        open_bundle(path, verify=False)


def test_a_missing_file_is_named(tiny_bundle, tmp_path):
    path = copy_of(tiny_bundle("bert", "none"), tmp_path)
    (path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(BadInputError, match=r"tokenizer\.json: is missing"):
        open_bundle(path)


def test_a_changed_manifest_is_refused(tiny_bundle, tmp_path):
    path = copy_of(tiny_bundle("bert", "none"), tmp_path)
    fields = json.loads((path / "manifest.json").read_text())
    fields["max_length"] += 1
    (path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BadInputError, match="digest does not match"):
        open_bundle(path)


def test_a_folder_that_is_no_bundle_and_one_that_is_not_there_are_told_apart(tmp_path):
    with pytest.raises(BadInputError, match=r"no manifest\.json"):
        open_bundle(tmp_path)
    with pytest.raises(BadInputError, match="no such bundle"):
        open_bundle(tmp_path / "absent")


def test_a_model_in_place_of_a_bundle_is_told_how_to_become_one(tmp_path):
    checkpoint, file, other = (tmp_path / name for name in ("a model", "model.gguf", "notes.txt"))
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    file.write_bytes(b"GGUF")
    other.write_text("")
    for model, shown in ((checkpoint, f"'{checkpoint}'"), (file, str(file))):
        with pytest.raises(BadInputError, match="is a model, not a bundle") as caught:
            open_bundle(model)
        assert str(caught.value).endswith(f"pacplus export {shown} -o NEW")
    with pytest.raises(BadInputError, match="is a file, not the folder of a bundle"):
        open_bundle(other)


def test_opening_and_cutting_needs_neither_torch_nor_transformers(tiny_bundle):
    code = (
        "import sys\n"
        "sys.modules.update(torch=None, transformers=None, onnxruntime=None)\n"
        "from pathlib import Path\n"
        "from export.partition.stages import cut_stage, open_bundle\n"
        "assert cut_stage(open_bundle(Path(sys.argv[1])), 0, 2)\n"
    )
    subprocess.run([sys.executable, "-c", code, tiny_bundle("bert", "int8").path], check=True)
