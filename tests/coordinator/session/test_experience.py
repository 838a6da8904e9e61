"""What a run has found of its devices takes the place of what was assumed."""

import dataclasses

import pytest

from coordinator.planner.cost.epoch import all_reduce_seconds
from coordinator.planner.problem.calibrate import CONTENTION_FACTOR, calibrated
from coordinator.session.experience import ENOUGH_BATCHES, ENOUGH_STEPS, Experience, differ
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import MOST_SLOWER, DeviceProfile, LinkProfile
from tests.coordinator.planner.problems import problem, profile
from tests.coordinator.session.histories import plan_of, scenario_of, until

A = DeviceId("a")
MEASURED = profile("a", train=1e-3)
LINK = LinkProfile(up_bits_per_second=1e8, down_bits_per_second=1e8, latency_seconds=1e-3)


def own(steps: int) -> float:
    """What measurements say of steps of 16 samples."""
    trainer = MEASURED.trainer
    assert trainer is not None
    return steps * (16 * trainer.seconds_per_sample + trainer.seconds_per_step)


def after(batches: int = 0, slower: float = 1.0, steps: int = 0) -> Experience:
    experience = Experience()
    for _ in range(batches):
        experience.served(A, 0.01 * slower, 0.01)
    experience.trained(MEASURED, steps, 16.0 * steps, slower * own(steps))
    experience.exchanged([A], steps, slower * 0.02 * steps, 0.02 * steps)
    return experience


def trains(factor: float) -> DeviceProfile:
    assert MEASURED.trainer is not None
    return dataclasses.replace(
        MEASURED, trainer=dataclasses.replace(MEASURED.trainer, in_run=factor)
    )


def fill_factor(learnt: DeviceProfile) -> float | None:
    (factor,) = {timing.in_run for each in learnt.blocks.values() for timing in each}
    return factor


def test_a_profile_stays_as_measured_where_little_was_seen() -> None:
    seen = after(ENOUGH_BATCHES - 1, 3.0, ENOUGH_STEPS - 1)
    assert seen.learn(MEASURED) is MEASURED


def test_the_fill_is_predicted_by_what_micro_batches_took() -> None:
    learnt = after(ENOUGH_BATCHES, 1.5).learn(MEASURED)
    assert fill_factor(learnt) == pytest.approx(1.5)
    before, now = (
        next(iter(calibrated(each).blocks.values()))[0].seconds_per_token
        for each in (MEASURED, learnt)
    )
    factor = now / before
    assert factor == pytest.approx(1.5 / CONTENTION_FACTOR)


def test_training_is_predicted_by_what_steps_took_without_waiting_for_others() -> None:
    learnt = after(steps=ENOUGH_STEPS, slower=2.5).learn(MEASURED)
    assert learnt.trainer is not None
    assert learnt.trainer.in_run == pytest.approx(2.5)
    now, before = calibrated(learnt).trainer, calibrated(MEASURED).trainer
    assert now is not None
    assert before is not None
    factor = now.seconds_per_sample / before.seconds_per_sample
    assert factor == pytest.approx(2.5 / CONTENTION_FACTOR)


def test_the_exchange_is_predicted_by_what_all_reduces_took() -> None:
    learnt = after(steps=ENOUGH_STEPS, slower=1.4).learn(MEASURED)
    assert learnt.trainer is not None
    assert learnt.trainer.exchange_in_run == pytest.approx(1.4)
    case = problem(MEASURED, profile("b", link=LINK))
    before = all_reduce_seconds(case, case.profiles)
    assert all_reduce_seconds(case, (learnt, case.profiles[1])) == pytest.approx(1.4 * before)


def test_a_step_that_nobody_timed_teaches_nothing() -> None:
    experience = Experience()
    experience.trained(MEASURED, ENOUGH_STEPS, 16.0, 0.0)
    assert experience.learn(MEASURED) is MEASURED


def test_only_what_is_beyond_noise_makes_profiles_differ() -> None:
    one, like, other = map(trains, (1.0, 1.05, 1.3))
    assert not differ(one, like)
    assert differ(one, other)
    assert differ(other, one)


def test_what_came_is_held_against_the_first_plan_by_phase() -> None:
    experience = after(ENOUGH_BATCHES, 2.0, ENOUGH_STEPS)
    assert experience.compare(A) == {}
    experience.assume(MEASURED)
    experience.assume(trains(9.0))
    found = experience.compare(A)
    assert found.keys() == {"fill", "training", "exchange"}
    assert found["training"].seconds == pytest.approx(2.0 * own(ENOUGH_STEPS))
    predicted = CONTENTION_FACTOR * own(ENOUGH_STEPS)
    assert found["training"].predicted_seconds == pytest.approx(predicted)


def test_finding_candidates_is_expected_to_take_time_once() -> None:
    assert MEASURED.trainer is not None
    trainer = dataclasses.replace(MEASURED.trainer, seconds_per_new_sample=0.5)
    profile = dataclasses.replace(MEASURED, trainer=trainer)
    experience = Experience()
    samples = 16.0 * ENOUGH_STEPS
    wall = samples * trainer.seconds_per_sample + ENOUGH_STEPS * trainer.seconds_per_step
    experience.trained(profile, ENOUGH_STEPS, samples, wall + 4 * 0.5, found=4)
    learnt = experience.learn(profile)
    assert learnt.trainer is not None
    assert learnt.trainer.in_run == pytest.approx(1.0)


def test_what_was_learnt_before_stays_where_this_run_says_nothing() -> None:
    known = trains(1.3)
    learnt = after(ENOUGH_BATCHES, 2.0).learn(known)
    assert learnt.trainer == known.trainer
    assert fill_factor(learnt) == pytest.approx(2.0)


def test_no_factor_is_beyond_what_a_profile_may_have() -> None:
    learnt = after(ENOUGH_BATCHES, 1e6).learn(MEASURED)
    assert fill_factor(learnt) == MOST_SLOWER


def test_a_session_keeps_what_it_has_found_for_the_next_one() -> None:
    scenario = scenario_of(plan_of((0, 1)), train=range(12))
    cluster = scenario.cluster()
    until(cluster, "collecting")
    (found,) = cluster.session.measured.profiles.values()
    if cluster.session.state.experience._of[DeviceId("d0")].fill.pieces >= ENOUGH_BATCHES:
        assert all(each.in_run is not None for (each,) in found.times.blocks.values())
