"""What devices are told of int8 weights and scales in their files."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from coordinator.cluster.stage_files import StageCutter
from export.partition.stages import cut_stage, stage_products


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_every_product_with_int8_weights_is_found_where_it_lies(mode, tiny_bundle, tmp_path):
    bundle = tiny_bundle("bert", mode)
    stage = StageCutter(bundle).load_stage(1, 3, layers=(), dtype="fp32").stage
    for file in stage.files:
        (tmp_path / PurePosixPath(file.path).name).write_bytes(bundle.file_path(file).read_bytes())
    (tmp_path / "stage.onnx").write_bytes(stage.graph.tobytes())
    graph = onnx.load(tmp_path / "stage.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(stage.products) == len(nodes) > 0
    expected = {
        (constants[node.input[1]].tobytes(), constants[node.input[3]].tobytes()) for node in nodes
    }
    found = set()
    for product in stage.products:
        parts = [bundle.file_path(file).read_bytes() for file in stage.files]
        parts.append(stage.graph.tobytes())
        size = product.inputs * product.outputs
        scales = parts[product.scale_file][product.scale_at :][: 4 * product.outputs]
        found.add((parts[product.weight_file][product.weight_at :][:size], scales))
        assert np.frombuffer(scales, np.float32).min() > 0
    assert found == expected


def test_a_float_stage_has_none(tiny_bundle):
    bundle = tiny_bundle("bert", "none")
    assert StageCutter(bundle).load_stage(0, 2, layers=(), dtype="fp32").stage.products == ()


def test_none_is_named_where_one_cannot_be_changed_in_place(tiny_bundle):
    bundle = tiny_bundle("bert", "int8")
    stage, files = cut_stage(bundle, 1, 2), bundle.manifest.weight_files(1, 2)
    model = onnx.load_from_string(stage)
    first = next(node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat")
    model.graph.node.append(onnx.helper.make_node("Identity", [first.input[1]], ["read twice"]))
    assert stage_products(stage, files)
    assert stage_products(model.SerializeToString(), files) == ()
    assert stage_products(stage, ()) == ()
