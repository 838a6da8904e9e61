"""``--emulate``: its grammar, its errors, and what it makes of the catalogue."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.catalogue import device_names, load_device
from devices.specification import EmulatedDevice, dilation, parse_bytes, parse_emulate, thread_count
from edge_runtime.contract.errors import UsageError


def one(text: str) -> EmulatedDevice:
    (device,) = parse_emulate(text)
    return device


def test_a_plain_name_takes_everything_from_the_catalogue() -> None:
    spec, device = load_device("raspberry-pi-4"), one("raspberry-pi-4")
    assert device.memory_bytes == spec.memory_bytes
    assert device.cores == spec.cores
    assert device.compute_cores == spec.cores * spec.relative_speed
    assert device.link_bits_per_second == spec.link_bits_per_second
    assert device.latency_seconds == spec.latency_seconds
    assert device.roles == spec.roles


def test_an_item_without_a_colon_goes_on_with_the_device_before() -> None:
    nano, pi, laptop = parse_emulate(
        "jetson-nano, raspberry-pi-5:memory=400M ,link=100M,laptop:cpu=0.5,trainer=no"
    )
    assert nano == one("jetson-nano")
    assert (pi.memory_bytes, pi.link_bits_per_second) == (400_000_000, 1e8)
    assert (laptop.compute_cores, laptop.roles) == (0.5, ("backbone",))


def test_options_may_follow_a_plain_name() -> None:
    assert parse_emulate("laptop,cpu=0.5") == parse_emulate("laptop:cpu=0.5")


def test_devices_of_one_name_are_numbered_from_one() -> None:
    ids = [device.id for device in parse_emulate("laptop,jetson-nano,laptop,laptop")]
    assert ids == ["laptop-1", "jetson-nano-1", "laptop-2", "laptop-3"]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("400M", 400_000_000),
        ("400MB", 400_000_000),
        ("2Gi", 2**31),
        ("512mi", 2**29),
        ("1.5G", 1_500_000_000),
        ("64000000", 64_000_000),
    ],
)
def test_memory_is_decimal_unless_it_says_i(text: str, size_bytes: int) -> None:
    assert one(f"laptop:memory={text}").memory_bytes == size_bytes


@pytest.mark.parametrize(("text", "rate"), [("100M", 1e8), ("1Gbit", 1e9), ("9600", 9600)])
def test_links_are_in_bits_a_second(text: str, rate: float) -> None:
    assert one(f"laptop:link={text}").link_bits_per_second == rate


@pytest.mark.parametrize(("text", "seconds"), [("5ms", 0.005), ("250us", 0.00025), ("1s", 1.0)])
def test_latency_needs_its_unit(text: str, seconds: float) -> None:
    assert one(f"laptop:latency={text}").latency_seconds == pytest.approx(seconds)


def test_fewer_cores_make_a_slower_device() -> None:
    assert one("laptop:cores=2").compute_cores == one("laptop").compute_cores / 2
    assert one("laptop:cores=2,cpu=3").compute_cores == 3


def test_a_phone_can_be_told_to_train() -> None:
    assert one("pixel-8:trainer=yes").roles == ("backbone", "trainer")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("toaster", "unknown device 'toaster'"),
        ("", "is no device"),
        ("laptop,,laptop", "is no device"),
        ("laptop:", "'laptop:' .*is no device"),
        (":cpu=1", "is no device"),
        ("cpu=1,laptop", "'cpu=1' comes before any device"),
        ("laptop:speed=2", "'speed=2' is no option; there are: memory=.*trainer=yes|no"),
        ("laptop:fast", "'fast' is no option"),
        ("laptop:cpu=1,cpu=2", "cpu is given twice"),
        ("laptop:cpu=0", "'cpu=0' is wrong; write cpu=CORES"),
        ("laptop:cpu=nan", "'cpu=nan' is wrong"),
        ("laptop:cpu=-1", "'cpu=-1' is wrong"),
        ("laptop:memory=400", "'memory=400' is wrong; write memory=BYTES.*at least 40M"),
        ("laptop:memory=4X", "'memory=4X' is wrong"),
        ("laptop:link=0", "'link=0' is wrong"),
        ("laptop:latency=5", "'latency=5' is wrong; write latency=TIME, e.g. 5ms"),
        ("laptop:trainer=maybe", "'trainer=maybe' is wrong; write trainer=yes|no"),
        ("laptop:cores=1.5", "'cores=1.5' is wrong"),
    ],
)
def test_a_bad_item_is_named_with_what_is_allowed(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_emulate(text)


@given(st.text("laptop:=,memorycpu0123456789.KMGi-", max_size=40))
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    try:
        found = parse_emulate(text)
    except UsageError:
        return
    assert found
    assert len({device.id for device in found}) == len(found)


def test_time_is_dilated_only_when_the_devices_need_more_than_the_host_has() -> None:
    pair = parse_emulate("laptop:cpu=1.5,laptop:cpu=1")
    assert dilation(pair, host_cores=4) == 1
    assert dilation(pair, host_cores=2.5) == 1
    assert dilation(pair, host_cores=1) == pytest.approx(2.5)


@given(st.lists(st.sampled_from(device_names()), min_size=1, max_size=8), st.floats(0.1, 64))
def test_dilated_devices_fit_the_host_together(names: list[str], host_cores: float) -> None:
    found = parse_emulate(",".join(names))
    factor = dilation(found, host_cores)
    assert factor >= 1
    assert sum(device.compute_cores / factor for device in found) <= host_cores * (1 + 1e-9)


@pytest.mark.parametrize(
    ("quota_cores", "threads"), [(0.16, 1), (1.0, 1), (1.01, 2), (3.5, 4), (9.0, 4)]
)
def test_threads_follow_the_quota_up_to_the_cores(quota_cores: float, threads: int) -> None:
    device = dataclasses.replace(one("laptop"), cores=4)
    assert thread_count(device, quota_cores) == threads


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("800000", 800_000),
        ("500M", 500_000_000),
        ("1.5G", 1_500_000_000),
        ("2Gi", 2 << 30),
        ("64KiB", 64 << 10),
        (" 3k ", 3000),
    ],
)
def test_sizes_have_decimal_and_binary_prefixes(text: str, size_bytes: int) -> None:
    assert parse_bytes(text, "--cache-quota") == size_bytes


@pytest.mark.parametrize("text", ["", "M", "-1G", "0", "0.4", "2 G", "1e9", "2Q", "inf"])
def test_what_is_no_size_is_refused_with_the_name_of_its_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--cache-quota: .* write e\.g\. 500M"):
        parse_bytes(text, "--cache-quota")


def test_battery_and_temperature_stay_or_change_over_time() -> None:
    device = one("pixel-8:battery=12%,temperature=60-90/30s")
    said = {"battery": [0.12, 0.12, 1.0], "celsius": [60.0, 90.0, 30.0], "charging": False}
    assert device.condition == said
    assert one("pixel-8:battery=30%-10%/60s").condition["battery"] == [0.3, 0.1, 60.0]
    assert one("pixel-8").condition == {}
    assert device.limits == one("pixel-8"), "they do not bear upon what is measured"


@pytest.mark.parametrize(
    "text",
    [
        "battery=12",
        "battery=101%",
        "battery=5%-",
        "battery=9%-5%/0s",
        "temperature=hot",
        "temperature=201",
    ],
)
def test_conditions_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"{text.partition('=')[0]}=(PERCENT|CELSIUS), or FIRST"):
        one(f"laptop:{text}")
