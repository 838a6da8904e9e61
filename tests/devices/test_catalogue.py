"""The catalogue: complete, plausible, and every figure with its source."""

from __future__ import annotations

import dataclasses

import pytest

from devices.catalogue import DeviceSpec, Sources, device_names, load_device
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.structure import from_plain, to_plain

REQUIRED = {
    "jetson-nano",
    "jetson-tx2",
    "jetson-orin-nano",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "pixel-8",
    "laptop",
}


def test_the_catalogue_has_the_promised_devices() -> None:
    assert set(device_names()) >= REQUIRED


@pytest.mark.parametrize("name", device_names())
def test_every_number_in_every_file_has_a_source(name: str) -> None:
    plain = to_plain(load_device(name))
    numbers = {
        key
        for key, value in plain.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert numbers == set(plain["sources"])
    for source in plain["sources"].values():
        assert source.startswith(("https://", "estimate: "))
        assert len(source) > len("estimate: ") + 10


@pytest.mark.parametrize("name", device_names())
def test_every_device_loads_and_is_plausible(name: str) -> None:
    spec = load_device(name)
    assert 2**30 <= spec.memory_bytes <= 2**36
    assert 1 <= spec.cores <= 64
    assert 0.01 <= spec.relative_speed <= 4
    assert 10**6 <= spec.link_bits_per_second <= 10**10
    assert 0 < spec.latency_seconds < 0.1
    assert "backbone" in spec.roles


def test_the_laptop_is_the_reference_of_speed() -> None:
    assert load_device("laptop").relative_speed == 1


def test_a_phone_runs_stages_but_does_not_train() -> None:
    spec = load_device("pixel-8")
    assert spec.roles == ("backbone",)
    assert spec.battery


def test_an_unknown_device_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(UsageError, match=r"'toaster'.*jetson-nano.*raspberry-pi-5"):
        load_device("toaster")


def test_a_name_cannot_reach_outside_the_catalogue() -> None:
    with pytest.raises(UsageError, match="unknown device"):
        load_device("../catalogue/laptop")


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("memory_bytes", -1, "must be positive"),
        ("relative_speed", float("nan"), "must be positive"),
        ("latency_seconds", -0.1, "latency_seconds"),
        ("roles", [], "roles is empty"),
        ("cores", "four", "cores: expected an integer"),
    ],
)
def test_a_wrong_figure_is_refused_by_name(field: str, value: object, complaint: str) -> None:
    plain = to_plain(load_device("laptop")) | {field: value}
    with pytest.raises(BadInputError, match=complaint):
        from_plain(DeviceSpec, plain, "laptop.toml")


def test_a_figure_without_a_source_is_refused() -> None:
    sources = dict.fromkeys((field.name for field in dataclasses.fields(Sources)), "https://a")
    with pytest.raises(BadInputError, match="'cores' is missing"):
        from_plain(Sources, {key: value for key, value in sources.items() if key != "cores"})
    with pytest.raises(BadInputError, match="source of cores"):
        from_plain(Sources, sources | {"cores": "I just know"})
