import dataclasses

import pytest

from coordinator.planner.problem.calibrate import CONTENTION_FACTOR, calibrated
from edge_runtime.contract.profile import HandlingProfile
from tests.coordinator.planner.problems import profile


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
