from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import IntegerProduct
from edge_runtime.inference.paired_files import paired_paths, write_paired
from edge_runtime.inference.paired_weights import limit_pairs
from edge_runtime.inference.weight_store import WeightStore
from tests.edge_runtime.contract.examples import STAGE

INPUTS, OUTPUTS, WEIGHT_AT, SCALE_AT = 32, 3, 64, 192
VALUES = np.full((INPUTS, OUTPUTS), 127, np.int8)
SCALE = np.array([1, 2, 3], np.float32)


def spec(store, name, data):
    made = FileSpec(
        path=f"weights/{name}.bin", bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    store.path(made).write_bytes(data)
    return made


@pytest.fixture
def store(tmp_path):
    return WeightStore(tmp_path / "weights")


@pytest.fixture
def stage(store):
    layer = bytearray(np.random.default_rng(0).bytes(256))
    layer[WEIGHT_AT : WEIGHT_AT + VALUES.size] = VALUES.tobytes()
    layer[SCALE_AT : SCALE_AT + SCALE.nbytes] = SCALE.tobytes()
    product = IntegerProduct(
        inputs=INPUTS,
        outputs=OUTPUTS,
        weight_file=1,
        weight_at=WEIGHT_AT,
        scale_file=1,
        scale_at=SCALE_AT,
    )
    files = (spec(store, "embeddings", b"table"), spec(store, "layer", bytes(layer)))
    return replace(STAGE, files=files, products=(product,))


def test_weights_and_scales_are_replaced_where_they_lie_and_the_rest_stays(store, stage):
    write_paired(stage, store)
    source = store.path(stage.files[1]).read_bytes()
    values, scales = limit_pairs(VALUES, SCALE)
    expected = bytearray(source)
    expected[WEIGHT_AT : WEIGHT_AT + VALUES.size] = values.tobytes()
    expected[SCALE_AT : SCALE_AT + SCALE.nbytes] = scales.tobytes()
    assert paired_paths(store, stage.files[1])[0].read_bytes() == expected != source


def test_the_graph_lies_beside_all_files_of_the_stage_under_their_own_names(store, stage):
    graph = write_paired(stage, store)
    assert graph.read_bytes() == stage.graph.tobytes()
    for file in stage.files:
        assert (graph.parent / store.path(file).name).is_file()
    table = graph.parent / store.path(stage.files[0]).name
    assert table.samefile(store.path(stage.files[0]))


def test_scales_inside_the_graph_are_replaced_there_each_time(store, stage):
    graph = np.concatenate([np.arange(7, dtype=np.uint8), SCALE.view(np.uint8)])
    product = replace(stage.products[0], scale_file=-1, scale_at=7)
    inside = replace(stage, graph=graph, products=(product,))
    _, scales = limit_pairs(VALUES, SCALE)
    for _ in range(2):
        written = write_paired(inside, store).read_bytes()
        assert written == graph[:7].tobytes() + scales.tobytes()
    unchanged = paired_paths(store, stage.files[1])[0].read_bytes()[SCALE_AT:]
    assert unchanged == store.path(stage.files[1]).read_bytes()[SCALE_AT:]


def test_what_was_made_is_used_again(store, stage):
    write_paired(stage, store)
    paths = [path for file in stage.files for path in paired_paths(store, file) if path.is_file()]
    before = [path.stat() for path in paths]
    write_paired(stage, store)
    assert [path.stat() for path in paths] == before


@pytest.mark.parametrize("name", [0, 1])
def test_what_is_damaged_is_made_again(name, store, stage):
    write_paired(stage, store)
    damaged = paired_paths(store, stage.files[1])[name]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"?")
    write_paired(stage, store)
    assert damaged.read_bytes() == whole


def test_a_file_that_was_fetched_again_is_linked_again(store, stage):
    write_paired(stage, store)
    table = store.path(stage.files[0])
    table.unlink()
    table.write_bytes(b"table")
    write_paired(stage, store)
    assert paired_paths(store, stage.files[0])[0].samefile(table)


@pytest.mark.parametrize(
    "change",
    [
        {"weight_file": 2},
        {"scale_file": 2},
        {"scale_at": 250},
        {"scale_file": -1},
        {"weight_at": 200},
        {"inputs": 10**9},
    ],
)
def test_products_beyond_the_files_are_refused(change, stage):
    with pytest.raises(ValueError, match="not in the stage's files"):
        replace(stage, products=(replace(stage.products[0], **change),))


@pytest.mark.parametrize("change", [{"weight_file": -2}, {"scale_at": -1}, {"inputs": 0}])
def test_products_that_cannot_be_are_refused(change, stage):
    with pytest.raises(ValueError, match="product"):
        replace(stage.products[0], **change)
