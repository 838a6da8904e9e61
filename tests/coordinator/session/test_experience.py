"""What a run has found of its devices takes the place of what was assumed."""

import dataclasses

import pytest

from coordinator.planner.problem.calibrate import CONTENTION_FACTOR, calibrated
from coordinator.session.experience import ENOUGH_BATCHES, ENOUGH_STEPS, Experience
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Usage
from edge_runtime.contract.profile import MOST_SLOWER, DeviceProfile
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.histories import plan_of, scenario_of, until

A = DeviceId("a")
MEASURED = profile("a", train=1e-3)


def usage(train_seconds: float) -> Usage:
    return Usage(
        phase="train",
        cpu_seconds={"train": train_seconds},
        peak_rss_bytes=1,
        sent_bytes=0,
        received_bytes=0,
    )


def after(batches: int = 0, slower: float = 1.0, steps: int = 0) -> Experience:
    experience = Experience()
    for _ in range(batches):
        experience.served(A, 0.01 * slower, 0.01)
    experience.trained(A, steps, 16.0 * steps)
    return experience


def fill_factor(learnt: DeviceProfile) -> float | None:
    (factor,) = {timing.in_run for each in learnt.blocks.values() for timing in each}
    return factor


def test_a_profile_stays_as_measured_where_little_was_seen() -> None:
    seen = after(ENOUGH_BATCHES - 1, 3.0, ENOUGH_STEPS - 1)
    assert seen.learn(A, MEASURED, usage(1.0)) is MEASURED


def test_the_fill_is_predicted_by_what_micro_batches_took() -> None:
    learnt = after(ENOUGH_BATCHES, 1.5).learn(A, MEASURED, None)
    assert fill_factor(learnt) == pytest.approx(1.5)
    before, now = (
        next(iter(calibrated(each).blocks.values()))[0].seconds_per_token
        for each in (MEASURED, learnt)
    )
    factor = now / before
    assert factor == pytest.approx(1.5 / CONTENTION_FACTOR)


def test_training_is_predicted_by_the_processor_time_that_it_took() -> None:
    seen = after(steps=ENOUGH_STEPS)
    trainer = MEASURED.trainer
    assert trainer is not None
    own = ENOUGH_STEPS * (16 * trainer.seconds_per_sample + trainer.seconds_per_step)
    learnt = seen.learn(A, MEASURED, usage(2.5 * own * min(1.0, MEASURED.cores)))
    assert learnt.trainer is not None
    assert learnt.trainer.in_run == pytest.approx(2.5)
    now, before = calibrated(learnt).trainer, calibrated(MEASURED).trainer
    assert now is not None
    assert before is not None
    factor = now.seconds_per_sample / before.seconds_per_sample
    assert factor == pytest.approx(2.5 / CONTENTION_FACTOR)


def test_finding_candidates_is_expected_to_take_time_once() -> None:
    profile = dataclasses.replace(
        MEASURED,
        trainer=dataclasses.replace(MEASURED.trainer, seconds_per_new_sample=0.5, in_run=None),
    )
    found = Experience()
    found.trained(A, ENOUGH_STEPS, 16.0, found=4)
    wall = 16.0 * profile.trainer.seconds_per_sample
    wall += ENOUGH_STEPS * profile.trainer.seconds_per_step + 4 * 0.5
    took = wall * min(1.0, profile.cores)
    learnt = found.learn(A, profile, usage(took))
    assert learnt.trainer.in_run == pytest.approx(1.0)


def test_what_was_learnt_before_stays_where_this_run_says_nothing() -> None:
    assert MEASURED.trainer is not None
    known = dataclasses.replace(MEASURED, trainer=dataclasses.replace(MEASURED.trainer, in_run=1.3))
    learnt = after(ENOUGH_BATCHES, 2.0).learn(A, known, None)
    assert learnt.trainer == known.trainer
    assert fill_factor(learnt) == pytest.approx(2.0)


def test_no_factor_is_beyond_what_a_profile_may_have() -> None:
    learnt = after(ENOUGH_BATCHES, 1e6).learn(A, MEASURED, None)
    assert fill_factor(learnt) == MOST_SLOWER


def test_a_session_keeps_what_it_has_found_for_the_next_one() -> None:
    scenario = scenario_of(plan_of((0, 1)), train=range(12))
    cluster = scenario.cluster()
    until(cluster, "collecting")
    (found,) = cluster.session.measured.profiles.values()
    if cluster.session.state.experience._done[DeviceId("d0")].batches >= ENOUGH_BATCHES:
        assert all(each.in_run is not None for (each,) in found.times.blocks.values())
