"""A stage whose memory is short works in parts, and makes the same states."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from devices.emulation import EmulatedCluster
from devices.specification import parse_emulate
from edge_runtime.backbone.sample_parts import BackboneSize, Part, split_samples
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.inference.session import GraphSession
from edge_runtime.system.memory_guard import RESERVE_BYTES, MemoryGuard
from tests.conftest import TinyBundleMaker
from tests.edge_runtime.backbone.test_role import LENGTHS, Line, batch_of, ids_of
from tests.processes import ROOT

KILLED = -9


@pytest.mark.parametrize("cuts", [[], [2]])
def test_states_of_parts_equal_those_of_the_whole(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    bundle = tiny_bundle("t5", "none")
    manifest, stages = bundle.manifest, len(cuts) + 1
    line = Line(bundle, tmp_path, cuts)
    whole = line.run(batch_of(manifest, stages), ids_of(manifest))
    runs: list[tuple[int, bool]] = []
    compute = GraphSession.run

    def counted(graph, feeds, outputs):
        runs.append((len(next(iter(feeds.values()))), graph.frugal))
        return compute(graph, feeds, outputs)

    monkeypatch.setattr(GraphSession, "run", counted)
    for role in line.roles.values():
        role._memory = MemoryGuard(lambda: RESERVE_BYTES - 1)
    parts = line.run(batch_of(manifest, stages), ids_of(manifest))

    assert runs == [(1, True)] * stages * len(LENGTHS["encoder"])
    assert parts.keys() == whole.keys()
    for layer, rows in whole.items():
        expected = rows.view(np.float32)
        np.testing.assert_allclose(parts[layer].view(np.float32), expected, rtol=1e-4, atol=1e-4)


def test_rows_that_do_not_match_the_lengths_are_refused_in_parts_too(
    tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    bundle = tiny_bundle("llama", "none")
    line = Line(bundle, tmp_path, [])
    line.roles[DeviceId("d0")]._memory = MemoryGuard(lambda: 0)
    ids = {name: rows[:-1] for name, rows in ids_of(bundle.manifest).items()}
    with pytest.raises(RemoteError, match="rows of"):
        line.run(batch_of(bundle.manifest, 1), ids)


def test_parts_are_as_large_as_fits() -> None:
    lengths = {"encoder": np.array([4, 4, 4, 4, 100], np.int32)}
    size = BackboneSize(hidden_size=8, num_heads=1)
    rows = {"x": np.arange(116, dtype=np.int32)}
    most = size.part_bytes({"encoder": np.full(2, 4, np.int32)}, 1)
    predict = partial(size.part_bytes, layers=1)
    whole = Part(lengths, rows, predict(lengths))
    parts = split_samples(whole, {"x": "encoder"}, predict, most)
    assert [part.lengths["encoder"].tolist() for part in parts] == [[4, 4], [4], [4], [100]]
    np.testing.assert_array_equal(np.concatenate([part.rows["x"] for part in parts]), rows["x"])


SERVE = """
import sys
from functools import partial
from pathlib import Path

import numpy as np

from edge_runtime.system.memory_guard import MemoryGuard
from export.partition.stages import open_bundle
from tests.edge_runtime.backbone import test_role

SAMPLES, TOKENS = 1024, 80
test_role.LENGTHS = dict.fromkeys(("encoder", "decoder"), [TOKENS] * SAMPLES)
bundle = open_bundle(Path(sys.argv[1]))
line = test_role.Line(bundle, Path(sys.argv[2]), [])
if sys.argv[3] == "unguarded":
    for role in line.roles.values():
        role._memory = MemoryGuard(lambda: 1 << 40)
for _ in range(3):
    line.run(test_role.batch_of(bundle.manifest, 1), test_role.ids_of(bundle.manifest))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["guarded", "unguarded"])
def test_a_device_near_its_cap_works_in_parts_instead_of_dying(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, kind: str
) -> None:
    bundle = tiny_bundle("llama", "none")
    command = [sys.executable, "-c", SERVE, str(bundle.path), str(tmp_path), kind]
    with EmulatedCluster(parse_emulate("laptop:memory=300M")) as cluster:
        if not cluster.enforcement.memory:
            pytest.skip("control groups cannot be written here")
        log = tmp_path / "log"
        process = cluster.start(
            cluster.devices[0], command, log_path=log, env={"PYTHONPATH": str(ROOT)}
        )
        status = process.wait(120)
    if kind == "guarded":
        assert status == 0, log.read_text()
        assert "memory is short" in log.read_text()
    else:
        assert status == KILLED, "the cap is too high to show anything"
