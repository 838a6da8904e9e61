import dataclasses
import json

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plain import from_plain, to_plain
from edge_runtime.contract.profile import BlockTiming, DeviceProfile, LinkProfile, TrainerProfile

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


def test_speed_is_that_of_the_nearest_timed_length() -> None:
    long = dataclasses.replace(TIMING, sequence_length=128, seconds_per_token=3e-5)
    profile = dataclasses.replace(PROFILE, blocks={"layer": (TIMING, long)})
    assert profile.seconds_per_token("layer", 40) == 1e-5
    assert profile.seconds_per_token("layer", 500) == 3e-5
