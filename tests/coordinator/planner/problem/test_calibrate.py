import dataclasses

import pytest

from coordinator.planner.problem.calibrate import CONTENTION_FACTOR, calibrated, known_times
from edge_runtime.contract.profile import CoreSpeed, HandlingProfile, pace_of
from tests.coordinator.planner.problems import manifest, profile


def test_every_time_grows_by_the_contention_factor_and_nothing_else_changes() -> None:
    handling = HandlingProfile(seconds_per_message=1e-3, seconds_per_stage_run=2e-3)
    alone = dataclasses.replace(profile("a"), handling=handling)
    run = calibrated(alone)
    assert run.seconds_per_token("layer", 13) == pytest.approx(CONTENTION_FACTOR * 1e-5)
    assert run.handling.seconds_per_message == pytest.approx(CONTENTION_FACTOR * 1e-3)
    assert run.handling.seconds_per_stage_run == pytest.approx(CONTENTION_FACTOR * 2e-3)
    assert run.trainer is not None
    assert alone.trainer is not None
    assert run.trainer.seconds_per_sample == pytest.approx(CONTENTION_FACTOR * 1e-3)
    assert run.trainer.memory_bytes == alone.trainer.memory_bytes
    assert run.memory_bytes == alone.memory_bytes


def test_what_stages_reached_is_kept_as_one_thread_would_have_reached_it() -> None:
    alone = dataclasses.replace(profile("a"), core=CoreSpeed(flops=1e10, slower=1.0))
    (timing,) = alone.blocks["layer"]
    both = dataclasses.replace(
        timing, threads=2, seconds_per_token=timing.seconds_per_token / pace_of(2)
    )
    faster = dataclasses.replace(alone, blocks={**alone.blocks, "layer": (both,)})
    one, two = (known_times(manifest(), each) for each in (alone, faster))
    assert one is not None
    assert two is not None
    assert two.reached == pytest.approx(one.reached)
