"""What a device keeps between two sessions, and when it gives it up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from edge_runtime.backbone.loaded_stage import LoadedStage
from edge_runtime.contract import messages as m
from edge_runtime.device import warm as module
from edge_runtime.device.warm import KEPT_SECONDS, Warm
from edge_runtime.inference.weight_store import FileStates
from edge_runtime.serving.loaded_adapter import LoadedAdapter
from export.partition.stages import open_bundle
from tests.conformance.conftest import BUNDLE
from tests.conformance.real_device import RealDevices
from tests.conformance.world import TRAIN, A, World

PLENTY = 1 << 40


class Kept:
    """A stage or an adapter."""

    def __init__(self, identity: str, *, unchanged: bool = True) -> None:
        self.identity, self.unchanged = identity, unchanged

    def is_unchanged(self) -> bool:
        return self.unchanged


def stage(identity: str = "stage", *, unchanged: bool = True) -> LoadedStage:
    return cast(LoadedStage, Kept(identity, unchanged=unchanged))


def adapter() -> LoadedAdapter:
    return cast(LoadedAdapter, Kept("adapter"))


def test_what_is_kept_is_handed_on_once_to_who_asks_for_the_same() -> None:
    warm, mine = Warm(available_bytes=lambda: PLENTY), stage()
    warm.keep(mine, adapter())
    assert warm.take_stage("stage") is mine
    assert warm.take_stage("stage") is None
    assert warm.take_adapter("adapter") is not None
    assert not warm.holds


@pytest.mark.parametrize("kept", [stage("another"), stage(unchanged=False)])
def test_another_stage_or_one_whose_files_were_changed_is_dropped_when_it_is_asked_for(
    kept: LoadedStage,
) -> None:
    warm = Warm(available_bytes=lambda: PLENTY)
    warm.keep(kept, None)
    assert warm.take_stage("stage") is None
    assert not warm.holds


def test_what_nobody_asks_for_is_kept_for_a_while_only() -> None:
    now = 100.0
    warm = Warm(clock=lambda: now, available_bytes=lambda: PLENTY)
    warm.keep(stage(), None)
    now += KEPT_SECONDS / 2
    warm.keep(None, adapter())
    now += KEPT_SECONDS / 2 + 1
    warm.look()
    assert warm.take_stage("stage") is None
    assert warm.take_adapter("adapter") is not None


def test_nothing_is_kept_where_memory_is_short_and_all_given_up_when_it_becomes_so() -> None:
    now, free = 100.0, 1
    warm = Warm(clock=lambda: now, available_bytes=lambda: free)
    warm.keep(stage(), adapter())
    assert not warm.holds
    free = PLENTY
    warm.keep(stage(), adapter())
    assert warm.holds
    now, free = 110.0, 1
    warm.look()
    assert not warm.holds


def test_what_is_kept_does_not_count_as_memory_that_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident = 70
    monkeypatch.setattr(module, "resident_bytes", lambda: resident)
    warm = Warm(available_bytes=lambda: PLENTY)
    assert warm.base_bytes() == 70
    resident = 130
    warm.keep(stage(), None)
    assert warm.base_bytes() == 70
    warm.drop()
    assert warm.base_bytes() == 130


def test_files_that_were_written_replaced_or_removed_are_others(tmp_path: Path) -> None:
    file, absent = tmp_path / "weights", tmp_path / "absent"
    file.write_bytes(b"1")
    states = FileStates.of([file, absent])
    assert states.are_the_same()
    file.write_bytes(b"12")
    assert not states.are_the_same()
    states = FileStates.of([file, absent])
    absent.touch()
    assert not states.are_the_same()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    bundle = open_bundle(BUNDLE)
    devices = RealDevices(bundle, tmp_path)
    yield World(bundle, devices)
    devices.stop()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[m.LoadStage]:
    """Stages that are loaded."""
    requests: list[m.LoadStage] = []
    load = LoadedStage.load

    def noting(request: m.LoadStage, *rest: object, **more: bool) -> LoadedStage:
        requests.append(request)
        return load(request, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LoadedStage, "load", noting)
    monkeypatch.setattr(module, "RESERVE_PART", 0.0)
    return requests


def stored(world: World, number: int) -> None:
    """A batch goes through the stage."""
    world.answer(A, world.open_cache())
    world.send(A, world.run_batch(number, TRAIN[:2], (A,), {A: TRAIN[:2]}))
    world.stored(number, {A: 2})


def test_a_second_session_loads_no_stage_and_fetches_nothing(
    world: World, loaded: list[m.LoadStage], tmp_path: Path
) -> None:
    whole = len(world.layers)
    for session in range(2):
        world.start(A)
        ready = world.answer(A, world.load_stage(0, whole))
        assert isinstance(ready, m.StageReady)
        assert (ready.first, ready.last) == (0, whole)
        assert bool(ready.received_bytes) == (session == 0)
        stored(world, session)
        world.stop()
    assert len(loaded) == 1


def test_another_stage_is_loaded_and_so_is_one_whose_weights_were_touched(
    world: World, loaded: list[m.LoadStage], tmp_path: Path
) -> None:
    weights = tmp_path / A / "weights"
    for last in (2, 3, 3):
        world.start(A)
        world.answer(A, world.load_stage(0, last))
        world.stop()
        for file in weights.glob("*.bin"):
            content = bytearray(file.read_bytes())
            content[0] ^= 1
            file.write_bytes(content)  # damaged: fetched again, since its digest is checked
    assert len(loaded) == 3
