"""Disks without room for all samples, and what a loss amid training costs."""

import dataclasses
import random

import numpy as np
import pytest

from coordinator.session.goals.portions import LONGEST_SECONDS
from edge_runtime.contract import messages as m
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.fakes.cluster import Cluster, lose
from tests.coordinator.session.fakes.trainer import output_of
from tests.coordinator.session.histories import plan_of, scenario_of, until
from tests.coordinator.session.scenarios import state_after
from tests.faults.worlds import plan_for

D0, D1, D2 = DeviceId("d0"), DeviceId("d1"), DeviceId("d2")
TEXTS = list(range(12))
AMPLE = 1 << 20
SAMPLE = 3 * 2 * row_bytes("fp16", manifest().hidden_size)
"""Most bytes of a sample: three tokens, two layers."""


def cluster_of(*rooms: tuple[int | None, int], evaluation=(3, 20, 21), **changes) -> Cluster:
    """One device for each room: samples on its disk, and bytes in its memory besides."""
    names = [DeviceId(f"d{i}") for i in range(len(rooms))]
    scenario = scenario_of(
        plan_of(*[(i,) for i in range(max(2, len(rooms)))]),
        train=TEXTS,
        evaluation=evaluation,
        profiles={name: profile(name, layer=1e-5) for name in names},
        wait_seconds=None,
    )
    job = scenario.job
    options = dataclasses.replace(job.options, epochs=2)
    job = dataclasses.replace(
        job,
        options=options,
        make_plan=lambda measured: plan_for(measured, job, 1, fill_seconds=changes.get("fill")),
    )
    cluster = dataclasses.replace(scenario, job=job).cluster()
    cluster._window = 10**6
    for name, (room, memory) in zip(names, rooms, strict=True):
        cluster.devices[name].cached.room = room
        cluster.devices[name].cached.memory_bytes = memory
    return cluster


def finish(cluster: Cluster) -> None:
    """Plays to the end; the result is that of a run whose disks have room."""
    cluster.run(random.Random(1))
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    job, record = cluster.job, cluster.session.record
    assert record.state == state_after(job, job.total_steps)
    if "eval" in job.tables and record.outputs_after is not None:
        expected = [
            output_of(line, job.options.epochs) for line in range(len(record.outputs_after))
        ]
        np.testing.assert_array_equal(record.outputs_after, expected)


def happened(cluster: Cluster, event: str) -> list[dict[str, object]]:
    return [record.fields for record in cluster.events if record.event == event]


@pytest.mark.parametrize("room", [0, 1, 5])
def test_what_the_disk_has_no_room_for_is_computed_again_in_each_epoch(room: int) -> None:
    cluster = cluster_of((room, 2 * SAMPLE))
    finish(cluster)
    computed = cluster.devices[D0].computed
    again = len(computed) - len(set(computed))
    assert again >= 12 - room, "in the second epoch"
    assert len(cluster.devices[D0].cache) == room * 2, "two layers each"
    assert happened(cluster, "cache_full") == [{"device": D0}], "said once"
    assert not happened(cluster, "term_began")


def test_a_device_whose_disk_is_full_holds_no_more_in_memory_than_it_has_said() -> None:
    cluster = cluster_of((2, 2 * SAMPLE), (None, 0))
    finish(cluster)
    assert not happened(cluster, "device_blamed")


def test_a_device_with_room_keeps_its_samples_and_computes_for_the_one_without() -> None:
    cluster = cluster_of((0, AMPLE), (None, 0))
    finish(cluster)
    of_second = {key for key, _ in cluster.devices[D1].cache}
    computed = cluster.devices[D0].computed + cluster.devices[D1].computed
    assert all(computed.count(key) == 1 for key in of_second)


def test_a_device_that_cannot_hold_one_step_is_left_out() -> None:
    cluster = cluster_of((0, 0), (None, 0))
    finish(cluster)
    (relief,) = happened(cluster, "relief")
    assert relief["device"] == D0
    assert "--cache-quota" in str(relief["reason"])
    assert cluster.session.plan.owners[0].device == D1


def test_the_only_device_that_cannot_hold_one_step_ends_the_run_with_advice() -> None:
    cluster = cluster_of((0, 0))
    cluster.run(random.Random(1))
    assert isinstance(cluster.failure, InfeasibleError)
    assert "--batch-size" in str(cluster.failure)


def test_after_a_loss_steps_are_applied_before_all_that_is_lost_is_computed_again() -> None:
    cluster = cluster_of((None, 0), (None, 0), (None, 0), fill=5.0)
    until(cluster, "training")
    cluster.kill(D2)
    lose(cluster, D2, "its process ended")
    chance = random.Random(2)
    state = cluster.session.state
    while state.saved.step == 0:
        assert cluster.advance(chance)
    lost = state.catalogue.lacking(state.plan, "train", state.holdings.held())
    assert any(lacks.any() for lacks in lost.values()), "some are computed later"
    evaluation = state.catalogue.lacking(state.plan, "eval", state.holdings.held())
    assert any(lacks.any() for lacks in evaluation.values()), "and those for the evaluation last"
    finish(cluster)


def test_work_goes_on_after_a_loss_amid_training_when_a_step_is_applied() -> None:
    cluster = cluster_of((None, 0), (None, 0), (None, 0), fill=5.0)
    until(cluster, "training")
    cluster.kill(D2)
    lose(cluster, D2, "its process ended")
    chance = random.Random(2)
    while not happened(cluster, "went_on"):
        assert cluster.advance(chance)
    assert cluster.session.record.epochs[-1].sums.steps > 0


def test_evaluating_alone_needs_no_disk() -> None:
    scenario = scenario_of(plan_of((0,)), evaluation=TEXTS, profiles={D0: profile(D0, layer=1e-5)})
    options = dataclasses.replace(scenario.job.options, epochs=0)
    job = dataclasses.replace(scenario.job, options=options)
    cluster = dataclasses.replace(scenario, job=job).cluster()
    cached = cluster.devices[D0].cached
    cached.room, cached.memory_bytes = 0, 2 * SAMPLE
    cluster.run(random.Random(1))
    assert cluster.finished
    expected = [output_of(line, 0) for line in range(12)]
    np.testing.assert_array_equal(cluster.session.record.outputs_before, expected)


def test_a_device_that_keeps_less_than_it_said_it_would_is_to_blame() -> None:
    cluster = cluster_of((0, AMPLE), (None, 0))
    chance = random.Random(1)
    while not cluster.devices[D0].cached._wanted:
        assert cluster.advance(chance)
    cluster.devices[D0].cached.memory_bytes = 0
    finish(cluster)
    assert {each["device"] for each in happened(cluster, "device_blamed")} == {D0}


def test_a_sample_in_memory_is_forgotten_with_its_portion() -> None:
    cluster = cluster_of((0, AMPLE))
    chance = random.Random(1)
    state = cluster.session.state
    while not state.holdings.readable().get(D0, np.zeros(1)).any():
        assert cluster.advance(chance)
    state.holdings.holds_for_now(D0, np.zeros(0, np.int64))
    assert not state.holdings.readable()[D0].any()


def test_a_stored_sample_of_an_earlier_portion_is_not_readable_any_more() -> None:
    cluster = cluster_of((0, AMPLE))
    holdings = cluster.session.state.holdings
    holdings.opened(D0, np.zeros(len(cluster.session.state.catalogue.keys), bool))
    holdings.expect(7, {D0: np.array([1])}, computed=True)
    in_memory = m.Stored(number=7, layers=(0, 1), samples=1, kept=np.array([m.IN_MEMORY], np.uint8))
    holdings.stored(D0, in_memory, held_now=False)
    assert not holdings.readable()[D0].any()
    holdings.stored(D0, in_memory, held_now=True)
    assert holdings.readable()[D0][1]
    assert not holdings.held()[D0].any()


def test_a_disk_that_stays_full_through_thousands_of_portions_changes_nothing() -> None:
    cluster = cluster_of((0, 2 * SAMPLE), (None, 0), fill=5.0)
    state = cluster.session.state
    state.portion_seconds = 1e307  # what doubling alone comes to after a thousand
    finish(cluster)
    assert state.portion_seconds <= LONGEST_SECONDS


def test_what_every_owner_has_stored_is_expected_no_more() -> None:
    cluster = cluster_of((0, 2 * SAMPLE), (None, 0))
    finish(cluster)
    assert not cluster.session.state.holdings._items
