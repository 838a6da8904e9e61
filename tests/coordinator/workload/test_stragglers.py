"""New shares follow what devices do, settle, and give everyone a way back."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planner.dispatch import Router
from coordinator.workload.stragglers import (
    MAX_FACTOR,
    TOLERANCE,
    WINDOW,
    WINDOW_SECONDS,
    Pace,
    compute_seconds,
)
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.profile import BlockTiming, HandlingProfile
from tests.coordinator.planner.problems import manifest, profile

ALONE = DeviceId("alone")


def plan(*shares: float) -> Plan:
    """A stage of several devices, then one of a single device."""
    members = tuple(StageDevice(device=name_of(i), share=share) for i, share in enumerate(shares))
    return Plan(
        stages=(
            Stage(first=0, last=1, devices=members),
            Stage(first=1, last=2, devices=(StageDevice(device=ALONE),)),
        ),
        owners=(Owner(device=ALONE, shards=(0,)),),
        num_shards=1,
        micro_batch_size=1,
    )


def name_of(i: int) -> DeviceId:
    return DeviceId(f"d{i}")


def serve(pace: Pace, device: DeviceId, factor: float, batches: int = WINDOW, stage: int = 0):
    """What is said about a device that serves so many micro-batches at one speed."""
    said = [
        pace.served(stage, device, seconds=factor * 2.0, predicted_seconds=2.0)
        for _ in range(batches)
    ]
    return [off for off in said if off]


def test_a_device_at_half_its_speed_gets_half_of_what_it_would_get():
    pace = Pace(plan(0.5, 0.5))
    assert serve(pace, name_of(0), 1.0) == []
    (off,) = serve(pace, name_of(1), 2.0)
    assert (off.device, off.stage, off.factor) == (name_of(1), 0, 2.0)
    assert off.shares == pytest.approx({name_of(0): 2 / 3, name_of(1): 1 / 3})


def test_planned_shares_are_what_factors_count_from():
    pace = Pace(plan(0.8, 0.2))
    (off,) = serve(pace, name_of(0), 4.0)
    assert off.shares == pytest.approx({name_of(0): 0.5, name_of(1): 0.5})


def test_nothing_is_said_before_it_has_lasted():
    pace = Pace(plan(0.5, 0.5))
    assert serve(pace, name_of(0), 9.0, WINDOW - 1) == []
    assert serve(pace, name_of(0), 9.0, 1) != []


@given(st.lists(st.floats(1 / TOLERANCE, TOLERANCE), min_size=1, max_size=100))
def test_within_a_quarter_nothing_happens(factors):
    pace = Pace(plan(0.5, 0.5))
    assert not any(serve(pace, name_of(0), factor, 1) for factor in factors)


@given(st.lists(st.sampled_from([0.01, 1.0, 1.0, 100.0]), max_size=3), st.integers(0, 3))
def test_a_few_disturbed_micro_batches_change_nothing(odd, before):
    pace = Pace(plan(0.5, 0.5))
    assert serve(pace, name_of(0), 1.0, before) == []
    assert not any(serve(pace, name_of(0), factor, 1) for factor in odd)
    assert serve(pace, name_of(0), 1.0, 3 * WINDOW) == []


def test_a_stage_that_is_slow_as_a_whole_keeps_its_shares():
    pace = Pace(plan(0.5, 0.5))
    serve(pace, name_of(0), 2.0, WINDOW - 1)
    (off,) = serve(pace, name_of(1), 2.0)
    assert off.shares is None
    assert serve(pace, name_of(0), 2.0, 3 * WINDOW) == []


def test_a_device_alone_in_its_stage_is_noticed_and_has_nothing_to_share():
    (off,) = serve(Pace(plan(0.5, 0.5)), ALONE, 1.5, stage=1)
    assert (off.device, off.stage, off.factor, off.shares) == (ALONE, 1, 1.5, None)


def test_a_device_that_recovers_gets_its_share_back():
    pace = Pace(plan(0.5, 0.5))
    serve(pace, name_of(0), 1.0)
    (slow,) = serve(pace, name_of(1), 10.0)
    assert slow.shares[name_of(1)] == pytest.approx(1 / 11)
    (well,) = serve(pace, name_of(1), 1.0)
    assert well.shares == pytest.approx({name_of(0): 0.5, name_of(1): 0.5})


def test_what_is_over_within_seconds_is_not_for_long():
    pace = Pace(plan(0.5, 0.5))
    brief = [
        pace.served(0, name_of(0), seconds=0.1, predicted_seconds=0.01)
        for _ in range(int(WINDOW_SECONDS / 0.1) - 1)
    ]
    assert not any(brief)
    assert pace.served(0, name_of(0), seconds=0.2, predicted_seconds=0.01)


@pytest.mark.parametrize(("factor", "seen"), [(0.9, 1.0), (1.9, 1.0), (4.0, 2.0), (0.5, 0.5)])
def test_handling_may_or_may_not_fall_together_with_computing(factor, seen):
    pace = Pace(plan(0.5, 0.5))
    said = [
        pace.served(0, name_of(0), seconds=factor * 2.0, predicted_seconds=2.0, handling=1.0)
        for _ in range(WINDOW)
    ]
    assert [off.factor for off in said if off] == ([] if seen == 1.0 else [seen])


def test_what_has_no_prediction_is_not_judged():
    pace = Pace(plan(1.0))
    said = [pace.served(0, name_of(0), seconds=1.0, predicted_seconds=0.0) for _ in range(99)]
    assert said == [None] * 99


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 20)), min_size=2, max_size=4),
    st.integers(0, 2**32),
)
def test_shares_come_to_what_speeds_are_and_stay_there(devices, seed):
    """Devices with noise of +-10 % about a factor each, fed by the router that is re-shared."""
    total, chance = sum(weight for weight, _ in devices), random.Random(seed)
    a_plan = plan(*(weight / total for weight, _ in devices))
    pace, router = Pace(a_plan), Router(a_plan)
    factors = {name_of(i): factor for i, (_, factor) in enumerate(devices)}
    planned = {name_of(i): weight / total for i, (weight, _) in enumerate(devices)}
    shares, changes = dict(planned), []
    for batch in range(6000):
        device = router.route()[0]
        seconds = factors[device] * chance.uniform(0.9, 1.1)
        off = pace.served(0, device, seconds=seconds, predicted_seconds=1.0)
        if off and off.shares:
            shares = dict(off.shares)
            router.share(0, shares)
            changes.append(batch)
    assert sum(shares.values()) == pytest.approx(1)
    speeds = {name: planned[name] / factors[name] for name in planned}
    for name, share in shares.items():
        fair = speeds[name] / sum(speeds.values())
        assert share > planned[name] / MAX_FACTOR**2
        assert fair / TOLERANCE**2 <= share <= fair * TOLERANCE**2
    assert len(changes) <= 3 * len(devices)
    assert not changes or changes[-1] < 5000


def test_a_prediction_counts_the_tokens_that_a_micro_batch_is_padded_with():
    stage = Stage(first=0, last=3, devices=(StageDevice(device=ALONE),))
    seconds = compute_seconds(manifest(), profile("alone", layer=1e-3), stage, 4, {"encoder": 10})
    assert seconds == pytest.approx(4 * 10 * (1e-4 + 2 * 1e-3))


def test_a_prediction_takes_each_blocks_own_sequence():
    model = manifest([1] * 4, encoder_blocks=2, task="seq2seq")
    stage = Stage(first=1, last=4, devices=(StageDevice(device=ALONE),))
    longest = {"encoder": 10, "decoder": 3}
    seconds = compute_seconds(model, profile("alone", layer=1e-3), stage, 2, longest)
    assert seconds == pytest.approx(2 * (10 * 1e-3 + 3 * (1e-4 + 1e-3)))


def test_a_prediction_counts_what_every_run_of_a_block_costs():
    timing = BlockTiming(
        batch_size=16, sequence_length=16, seconds_per_token=1e-3, seconds_per_run=0.5
    )
    costly = dataclasses.replace(
        profile("alone"), blocks=dict.fromkeys(("embeddings", "layer"), (timing,))
    )
    stage = Stage(first=0, last=3, devices=(StageDevice(device=ALONE),))
    seconds = compute_seconds(manifest(), costly, stage, 4, {"encoder": 10})
    assert seconds == pytest.approx(3 * (0.5 + 4 * 10 * 1e-3))


def test_entering_and_leaving_a_stage_is_part_of_what_is_served():
    entry = HandlingProfile(seconds_per_stage_run=0.5, seconds_per_stage_token=0.01)
    entered = dataclasses.replace(profile("alone", layer=1e-3), handling=entry)
    stage = Stage(first=0, last=2, devices=(StageDevice(device=ALONE),))
    plain = compute_seconds(manifest(), profile("alone", layer=1e-3), stage, 4, {"encoder": 10})
    seconds = compute_seconds(manifest(), entered, stage, 4, {"encoder": 10})
    assert seconds == pytest.approx(plain + 0.5 + 4 * 10 * 0.01)


def test_blocks_that_were_never_timed_have_no_prediction():
    stage = Stage(first=0, last=3, devices=(StageDevice(device=ALONE),))
    assert compute_seconds(manifest(), profile("alone", layer=None), stage, 4, {}) == 0
