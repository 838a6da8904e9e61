import dataclasses
import json

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import BlockTiming, DeviceProfile, LinkProfile, TrainerProfile
from edge_runtime.contract.structure import from_plain, to_plain

TIMING = BlockTiming(batch_size=16, sequence_length=32, seconds_per_token=1e-5)
PROFILE = DeviceProfile(
    device=DeviceId("jetson-nano-1"),
    profile="jetson-nano",
    roles=("backbone", "trainer"),
    memory_bytes=400_000_000,
    base_memory_bytes=60_000_000,
    storage_bytes=10**10,
    cores=0.5,
    kernel_class="vnni",
    blocks={"layer": (TIMING, dataclasses.replace(TIMING, sequence_length=128))},
    trainer=TrainerProfile(seconds_per_sample=1e-3),
    link=LinkProfile(up_bits_per_second=1e8, down_bits_per_second=1e8),
)


def test_a_profile_survives_json() -> None:
    text = json.dumps(to_plain(PROFILE))
    assert from_plain(DeviceProfile, json.loads(text)) == PROFILE


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("memory_bytes", -1, "memory_bytes, threads and cores must be positive"),
        ("memory_bytes", "1G", r"profile\.memory_bytes: expected an integer"),
        ("cores", float("nan"), "cores"),
        ("roles", [], "roles must name"),
        ("roles", ["trainer"], "blocks must hold timings exactly"),
        ("trainer", None, "trainer must be given when roles has trainer"),
        ("roles", ["backbone", "cook"], r"roles\[1\]"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, message: str) -> None:
    plain = {**to_plain(PROFILE), field: value}
    with pytest.raises(BadInputError, match=message):
        from_plain(DeviceProfile, plain, "profile")


def test_a_missing_field_is_named() -> None:
    plain = to_plain(PROFILE)
    del plain["storage_bytes"]
    with pytest.raises(BadInputError, match="storage_bytes"):
        from_plain(DeviceProfile, plain)


def profile_of(*timings: BlockTiming) -> DeviceProfile:
    return dataclasses.replace(PROFILE, blocks={"layer": timings})


def test_a_tokens_time_grows_by_equal_steps_between_timed_lengths() -> None:
    long = dataclasses.replace(TIMING, sequence_length=128, seconds_per_token=3e-5)
    for profile in (profile_of(TIMING, long), profile_of(long, TIMING)):
        found = [profile.seconds_per_token("layer", tokens) for tokens in (32, 56, 80, 128)]
        assert found == pytest.approx([1e-5, 1.5e-5, 2e-5, 3e-5])


def test_beyond_the_longest_timed_length_a_tokens_time_goes_on_to_grow() -> None:
    long = dataclasses.replace(TIMING, sequence_length=128, seconds_per_token=3e-5)
    profile = profile_of(TIMING, long)
    assert profile.seconds_per_token("layer", 1) == 1e-5
    assert profile.seconds_per_token("layer", 224) == pytest.approx(5e-5)
    assert profile_of(TIMING).seconds_per_token("layer", 500) == 1e-5


def test_a_length_between_three_timings_is_judged_by_its_neighbours() -> None:
    lengths = {32: 1e-5, 64: 5e-5, 128: 6e-5}
    timings = [
        dataclasses.replace(TIMING, sequence_length=length, seconds_per_token=seconds)
        for length, seconds in lengths.items()
    ]
    profile = profile_of(*timings)
    assert profile.seconds_per_token("layer", 48) == pytest.approx(3e-5)
    assert profile.seconds_per_token("layer", 96) == pytest.approx(5.5e-5)


def test_the_cost_of_a_run_is_interpolated_like_a_tokens() -> None:
    short = dataclasses.replace(TIMING, seconds_per_run=1e-4)
    long = dataclasses.replace(TIMING, sequence_length=128, seconds_per_run=3e-4)
    assert profile_of(short, long).seconds_per_run("layer", 80) == pytest.approx(2e-4)
    assert profile_of(TIMING).seconds_per_run("layer", 80) == 0


@pytest.mark.parametrize("value", [-1e-9, float("inf"), float("nan")])
def test_costs_that_cannot_be_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="seconds_per_run"):
        dataclasses.replace(TIMING, seconds_per_run=value)
    with pytest.raises(ValueError, match="seconds_per_exchanged_value"):
        TrainerProfile(seconds_per_sample=1e-3, seconds_per_exchanged_value=value)
