"""A portion is as long as its samples have room, and computing them takes no more than it may."""

import numpy as np

from coordinator.workload.portions import Limits, count_affordable, state_bytes, steps_of_epoch
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.histories import plan_of, scenario_of

A, B = DeviceId("a"), DeviceId("b")
STEPS = [np.array([0, 1]), np.array([2, 3]), np.array([0, 4])]
SIZES = np.array([10, 10, 10, 10, 10])


def lacking(*samples: int) -> np.ndarray:
    return np.isin(np.arange(5), samples)


def count(lacks, memory=None, samples=None):
    return count_affordable(STEPS, lacks, SIZES, Limits(memory_bytes=memory or {}, samples=samples))


def test_nothing_limits_what_nobody_lacks():
    assert count({A: lacking()}, {A: 0}, 0) == (3, None)


def test_a_portion_ends_where_memory_does():
    assert count({A: lacking(0, 1, 2, 3, 4)}, {A: 40}) == (2, None)


def test_a_sample_of_two_steps_takes_its_memory_once():
    assert count({A: lacking(0, 1, 2, 3, 4)}, {A: 50}) == (3, None)


def test_each_device_has_its_own_memory():
    lacks = {A: lacking(0, 2, 4), B: lacking(1, 3)}
    assert count(lacks, {A: 20, B: 20}) == (2, None)
    assert count(lacks, {A: 30, B: 20}) == (3, None)


def test_whose_memory_has_no_room_for_one_step_is_named():
    assert count({A: lacking(), B: lacking(0, 1)}, {A: 0, B: 19}) == (0, B)


def test_a_portion_ends_where_computing_takes_too_long_but_has_one_step():
    lacks = {A: lacking(0, 1, 2, 3, 4)}
    assert count(lacks, samples=0) == (1, None)
    assert count(lacks, samples=3) == (1, None)
    assert count(lacks, samples=4) == (2, None)


def test_steps_have_each_line_of_the_epoch_once_in_the_order_of_the_trainers():
    job = scenario_of(plan_of((0, 1)), train=range(7)).job
    steps = steps_of_epoch(job, 1)
    assert sorted(np.concatenate(steps).tolist()) == list(range(7))
    assert len(steps) == job.steps_per_epoch


def test_states_are_counted_as_a_cache_stores_them():
    scenario = scenario_of(plan_of((0, 1)), train=range(3))
    job = scenario.job
    cluster = scenario.cluster()
    catalogue = cluster.session.state.catalogue
    found = state_bytes(job, catalogue)[catalogue.distinct["train"]]
    per_token = len(job.config.layers) * row_bytes(job.cache_dtype, job.manifest.hidden_size)
    assert found.tolist() == [each * per_token for each in (1, 2, 3)]
