"""Micro-batches through real stages on several devices, without sockets."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from coordinator.cluster.stage_files import StageCutter
from edge_runtime.backbone import role
from edge_runtime.backbone.encoded_states import parts_for_owners
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import RemoteError, UnresumableError
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.inference.weight_store import WeightStore
from export.partition.stages import Bundle
from tests.conftest import TinyBundleMaker

LENGTHS = {"encoder": [5, 2, 9], "decoder": [3, 4, 1]}
OWNER = DeviceId("owner")


class Line:
    """Devices in a row, each with a stage; what they send goes over the wire and on at once."""

    def __init__(self, bundle: Bundle, folder: Path, cuts: list[int]) -> None:
        manifest = bundle.manifest
        bounds = [0, *cuts, len(manifest.blocks)]
        self.kept: list[m.States] = []
        self.boundaries: list[m.Activations] = []
        self.roles: dict[DeviceId, BackboneRole] = {}
        cutter, layers = StageCutter(bundle), tuple(range(len(manifest.blocks)))
        for index, first in enumerate(bounds[:-1]):
            name = DeviceId(f"d{index}")
            self.roles[name] = BackboneRole(me=name, threads=1, outbox=self, keep=self.kept.append)
            request = cutter.load_stage(first, bounds[index + 1], layers=layers, dtype="fp32")
            store = WeightStore(folder / name)
            for spec in request.stage.files:
                shutil.copy(bundle.file_path(spec), store.path(spec))
            received = decode(encode(request))
            assert isinstance(received, m.LoadStage)
            self.roles[name].load(received, store)

    def to_coordinator(self, message: m.Message) -> None:
        assert isinstance(message, m.BatchServed)

    def to_peer(self, peer: DeviceId, message: m.Message) -> None:
        received = decode(encode(message))
        if isinstance(received, m.Activations):
            self.boundaries.append(received)
            self.roles[peer].run(received.batch, received.stage, received.rows)
        else:
            assert isinstance(received, m.States)
            self.kept.append(received)

    def wait_for_room(self) -> None:
        pass

    def run(self, batch: m.MicroBatch, inputs: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
        """The states of every layer, (tokens, bytes of a row)."""
        self.kept.clear()
        self.roles[batch.route[0]].run(batch, 0, inputs)
        return {
            layer: states.encoded[place]
            for states in self.kept
            for place, layer in enumerate(states.layers)
        }


def batch_of(manifest: Manifest, stages: int, chosen: slice = slice(None)) -> m.MicroBatch:
    lengths = {stream: np.array(LENGTHS[stream], np.int32)[chosen] for stream in manifest.streams}
    count = len(next(iter(lengths.values())))
    return m.MicroBatch(
        number=1,
        route=tuple(DeviceId(f"d{i}") for i in range(stages)),
        keys=np.arange(32 * count, dtype=np.uint8).reshape(count, 32),
        lengths=lengths,
        destinations=(m.Destination(device=OWNER, positions=np.arange(count, dtype=np.int32)),),
    )


def ids_of(manifest: Manifest, chosen: slice = slice(None)) -> dict[str, np.ndarray]:
    """Ids that are a function of the sample and the place."""
    return {
        spec.name: np.concatenate(
            [
                (np.arange(length) * 7 + 5 * sample) % 40 + 4
                for sample, length in list(enumerate(LENGTHS[spec.stream]))[chosen]
            ]
        ).astype(np.int32)
        for spec in manifest.inputs
        if spec.kind == "tokens"
    }


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_states_do_not_depend_on_where_the_backbone_is_cut(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, family: str
) -> None:
    bundle = tiny_bundle(family, "none")
    manifest = bundle.manifest
    blocks = len(manifest.blocks)
    ids = ids_of(manifest)
    whole = Line(bundle, tmp_path / "whole", []).run(batch_of(manifest, 1), ids)
    assert sorted(whole) == list(range(blocks))
    for index, cuts in enumerate([cut] for cut in range(1, blocks)):
        line = Line(bundle, tmp_path / f"cut{index}", list(cuts))
        found = line.run(batch_of(manifest, 2), ids)
        assert [tuple(boundary.rows) for boundary in line.boundaries] == [manifest.carried(cuts[0])]
        for layer, rows in whole.items():
            expected, given = rows.view(np.float32), found[layer].view(np.float32)
            np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


def test_a_samples_states_do_not_depend_on_what_it_was_batched_with(
    tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    bundle = tiny_bundle("t5", "none")
    manifest = bundle.manifest
    line = Line(bundle, tmp_path, [2, len(manifest.blocks) - 1])
    together = line.run(batch_of(manifest, 3), ids_of(manifest))
    first = slice(0, 1)
    alone = line.run(batch_of(manifest, 3, first), ids_of(manifest, first))
    for layer, rows in alone.items():
        stream = manifest.blocks[layer].stream
        assert len(rows) == LENGTHS[stream][0]
        expected = together[layer][: len(rows)].view(np.float32)
        np.testing.assert_allclose(rows.view(np.float32), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("factor", "dtype", "message"),
    [
        (1e6, "fp16", r"hidden state 1 of the backbone reaches \S+, beyond the 65504 of fp16"),
        (np.nan, "int8", "hidden state 1 of the backbone is infinite or not a number"),
    ],
)
def test_states_that_the_cache_would_spoil_are_refused_before_any_is_sent(
    factor: float, dtype: m.CacheDtype, message: str
) -> None:
    lengths = {"encoder": np.array(LENGTHS["encoder"], np.int32)}
    batch = m.MicroBatch(
        number=1,
        route=(OWNER,),
        keys=np.zeros((3, 32), np.uint8),
        lengths=lengths,
        destinations=(m.Destination(device=OWNER, positions=np.arange(3, dtype=np.int32)),),
    )
    states = {layer: np.ones((16, 8), np.float32) for layer in range(3)}
    states[1][4, 5] = factor
    with pytest.raises(UnresumableError, match=message):
        next(parts_for_owners(batch, "encoder", states, dtype))


def test_an_unloaded_stage_serves_nothing(tiny_bundle: TinyBundleMaker, tmp_path: Path) -> None:
    bundle = tiny_bundle("llama", "none")
    line = Line(bundle, tmp_path, [])
    line.roles[DeviceId("d0")].unload()
    with pytest.raises(RemoteError, match="before its stage was loaded"):
        line.run(batch_of(bundle.manifest, 1), ids_of(bundle.manifest))


def test_the_allocator_keeps_nothing_of_an_unloaded_stage(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Line(tiny_bundle("bert", "none"), tmp_path, []).roles[DeviceId("d0")]
    was_loaded = []
    monkeypatch.setattr(role, "trim", lambda: was_loaded.append(backbone._loaded))
    backbone.unload()
    backbone.unload()
    assert was_loaded == [None], "once, when nothing is loaded any more"


def test_owners_get_each_sequence_with_its_own_lengths(
    tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    bundle = tiny_bundle("t5", "none")
    manifest = bundle.manifest
    line = Line(bundle, tmp_path, [])
    batch = batch_of(manifest, 1)
    mine = m.Destination(device=DeviceId("d0"), positions=np.array([2, 0], np.int32))
    theirs = m.Destination(device=OWNER, positions=np.array([1], np.int32))
    object.__setattr__(batch, "destinations", (mine, theirs))
    line.run(batch, ids_of(manifest))
    for states in line.kept:
        streams = {manifest.blocks[layer].stream for layer in states.layers}
        (stream,) = streams
        positions = [1] if len(states.keys) == 1 else [0, 2]
        assert states.lengths.tolist() == [LENGTHS[stream][i] for i in positions]
        np.testing.assert_array_equal(states.keys, batch.keys[positions])


def test_a_micro_batch_for_somebody_else_is_refused(
    tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    bundle = tiny_bundle("t5", "none")
    line = Line(bundle, tmp_path, [2])
    batch = batch_of(bundle.manifest, 2)
    with pytest.raises(RemoteError, match="wrong device"):
        line.roles[DeviceId("d1")].run(batch, 0, {})
    with pytest.raises(RemoteError, match="lacks input"):
        line.roles[DeviceId("d0")].run(batch, 0, {})


def passed_on(line: Line, bundle: Bundle) -> m.Activations:
    line.run(batch_of(bundle.manifest, 2), ids_of(bundle.manifest))
    (boundary,) = line.boundaries
    return boundary


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_of_a_peer_that_are_not_finite_are_refused(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, value: float
) -> None:
    bundle = tiny_bundle("llama", "none")
    line = Line(bundle, tmp_path, [2])
    boundary = passed_on(line, bundle)
    rows = {name: given.copy() for name, given in boundary.rows.items()}
    hidden = next(name for name in rows if rows[name].dtype == np.float32)
    rows[hidden][-1, -1] = value
    line.kept.clear()
    with pytest.raises(RemoteError, match=f"{hidden} is infinite"):
        line.roles[DeviceId("d1")].run(boundary.batch, 1, rows)
    assert not line.kept


def test_rows_of_another_width_are_refused(tiny_bundle: TinyBundleMaker, tmp_path: Path) -> None:
    bundle = tiny_bundle("llama", "none")
    line = Line(bundle, tmp_path, [2])
    boundary = passed_on(line, bundle)
    rows = {
        name: given[:, 1:] if given.ndim == 2 else given for name, given in boundary.rows.items()
    }
    with pytest.raises(RemoteError, match="refuses a graph's inputs"):
        line.roles[DeviceId("d1")].run(boundary.batch, 1, rows)


def test_lengths_of_a_thousand_million_tokens_cost_nothing_without_their_rows(
    tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    bundle = tiny_bundle("llama", "none")
    line = Line(bundle, tmp_path, [2])
    batch = batch_of(bundle.manifest, 2)
    huge = {stream: np.full_like(each, 1 << 30) for stream, each in batch.lengths.items()}
    with pytest.raises(RemoteError, match="lacks input"):
        line.roles[DeviceId("d1")].run(dataclasses.replace(batch, lengths=huge), 1, {})


def test_each_owner_gets_the_tokens_of_its_own_sequences() -> None:
    lengths, places = np.array([1, 3, 2], np.int32), np.arange(3, dtype=np.int32)
    owners = {DeviceId("a"): [2, 0], DeviceId("b"): [1]}
    batch = m.MicroBatch(
        number=1,
        route=(OWNER,),
        keys=np.zeros((3, 32), np.uint8),
        lengths={"decoder": lengths},
        destinations=tuple(
            m.Destination(device=owner, positions=np.array(mine, np.int32))
            for owner, mine in owners.items()
        ),
        sequences=Sequences(
            lines=places + 7,
            known={"decoder": places},
            tokens=np.array([10, 20, 21, 22, 30, 31], np.int32),
        ),
    )
    states = {0: np.zeros((6, 4), np.float32)}
    dealt = {
        owner: (part.sequences.lines.tolist(), part.sequences.tokens.tolist())
        for owner, part in parts_for_owners(batch, "decoder", states, "fp32")
    }
    assert dealt == {"a": ([7, 9], [10, 30, 31]), "b": ([8], [20, 21, 22])}
