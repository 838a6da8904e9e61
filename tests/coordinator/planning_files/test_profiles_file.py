import dataclasses

import pytest

from coordinator.planning_files.profiles_file import read_profiles
from devices.catalogue import load_device
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.profile import BlockTiming, HandlingProfile
from tests.coordinator.planner.problems import manifest, profile

NANO = """
[[device]]
name = "nano"
like = "jetson-nano"
"""
OWN = """
[[device]]
name = "desktop"
memory_bytes = 16_000_000_000
storage_bytes = 5_000_000_000
cores = 8
relative_speed = 1.25
link_bits_per_second = 1e9
latency_seconds = 0.0
roles = ["backbone", "trainer"]
"""
REFERENCE = dataclasses.replace(
    profile("this-machine"),
    blocks={
        kind: (
            BlockTiming(
                batch_size=8, sequence_length=32, seconds_per_token=seconds, seconds_per_run=0.01
            ),
        )
        for kind, seconds in {"embeddings": 1e-6, "layer": 1e-5}.items()
    },
    handling=HandlingProfile(seconds_per_byte=1e-9, seconds_per_stage_run=1e-3),
)


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "home.toml"
        path.write_text(text)
        return read_profiles(path)

    return read


@pytest.fixture
def refusal(read, tmp_path):
    """The error that a file ends in, without the file's name."""

    def refusal(text):
        with pytest.raises(BadInputError) as caught:
            read(text).profiles(manifest(), REFERENCE)
        start, _, rest = str(caught.value).partition(": ")
        assert start == str(tmp_path / "home.toml")
        assert "\n" not in rest
        return rest

    return refusal


def changed(field, value):
    """The self-made device with another value, or without the field."""
    lines = [line for line in OWN.splitlines() if not line.startswith(f"{field} ")]
    return "\n".join([*lines, *([f"{field} = {value}"] if value else [])])


def test_a_device_like_one_of_the_catalogue_has_its_figures(read):
    spec = load_device("jetson-nano")
    (found,) = read(NANO).profiles(manifest(), REFERENCE)
    assert (found.device, found.profile, found.measured) == ("nano", "jetson-nano", False)
    assert (found.memory_bytes, found.cores, found.roles) == (spec.memory_bytes, 4, spec.roles)
    assert found.link.up_bits_per_second == spec.link_bits_per_second
    assert found.link.latency_seconds == spec.latency_seconds


def test_times_scale_with_cores_and_their_speed(read):
    (found,) = read(OWN).profiles(manifest(), REFERENCE)
    (timing,) = found.blocks["layer"]
    assert timing.seconds_per_token == pytest.approx(1e-5 / 10)  # 8 cores of speed 1.25
    assert timing.seconds_per_run == pytest.approx(0.01 / 10)
    assert found.trainer.seconds_per_sample == pytest.approx(1e-3 / 10)
    assert found.handling.seconds_per_byte == pytest.approx(1e-9 / 1.25)  # of one core
    assert found.handling.seconds_per_stage_run == pytest.approx(1e-3 / 10)
    assert found.base_memory_bytes == REFERENCE.base_memory_bytes
    assert found.storage_bytes == 5_000_000_000


def test_fields_override_the_catalogue(read):
    (found,) = read(NANO + "memory_bytes = 2_000_000_000\ncores = 2").profiles(
        manifest(), REFERENCE
    )
    assert (found.memory_bytes, found.cores) == (2_000_000_000, 2)
    slower = load_device("jetson-nano").relative_speed * 2
    assert found.blocks["layer"][0].seconds_per_token == pytest.approx(1e-5 / slower)


def test_a_count_makes_alike_devices(read):
    found = read(NANO + "count = 3").profiles(manifest(), REFERENCE)
    assert [each.device for each in found] == ["nano-1", "nano-2", "nano-3"]
    assert len({each.memory_bytes for each in found}) == 1


def test_measured_times_are_taken_as_they_are(read):
    text = OWN + "blocks = { layer = 2e-5 }\ntrainer = { seconds_per_sample = 0.5 }"
    (found,) = read(text).profiles(manifest(), REFERENCE)
    assert [each.seconds_per_token for each in found.blocks["layer"]] == [2e-5]
    assert found.trainer.seconds_per_sample == 0.5
    assert found.trainer.memory_bytes == REFERENCE.trainer.memory_bytes


def test_a_device_that_only_serves_has_no_trainer(read):
    (found,) = read(changed("roles", '["backbone"]')).profiles(manifest(), REFERENCE)
    assert found.trainer is None


def test_without_pytorch_here_training_times_must_be_given(read):
    here = dataclasses.replace(REFERENCE, roles=("backbone",), trainer=None)
    with pytest.raises(BadInputError, match=r"device 'desktop'.trainer: is missing"):
        read(OWN).profiles(manifest(), here)
    given = read(OWN + "trainer = { seconds_per_sample = 0.5 }").profiles(manifest(), here)
    assert given[0].trainer.seconds_per_sample == 0.5


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        *((name, "", "is missing") for name in ("memory_bytes", "cores", "relative_speed")),
        *(
            (name, "", "is missing")
            for name in ("link_bits_per_second", "latency_seconds", "roles")
        ),
        *((name, "-5", "must be positive, not -5") for name in ("memory_bytes", "cores", "count")),
        ("relative_speed", "0", "must be positive, not 0"),
        ("relative_speed", "nan", "must be positive, not nan"),
        ("link_bits_per_second", "-1.0", "must be positive, not -1.0"),
        ("latency_seconds", "-0.1", "must not be negative, not -0.1"),
        ("storage_bytes", "-1", "must not be negative, not -1"),
        ("base_memory_bytes", "-1", "must not be negative, not -1"),
        ("memory_bytes", '"2G"', "expected an integer, got a string"),
        ("roles", '["baker"]', "expected one of backbone, trainer, got 'baker'"),
        ("roles", "[]", "name backbone, trainer or both"),
        ("count", "100000", "at most"),
        ("like", '"toaster"', "unknown device 'toaster'; the catalogue has: jetson-nano"),
        ("blocks", "{ layer = -1.0 }", "layer: must be positive, not -1.0"),
        ("blocks", "{ lair = 1.0 }", "'lair' is no class of blocks of this bundle"),
        ("blocks", "{}", "is empty"),
        ("trainer", "{ seconds_per_sample = -1.0 }", "seconds_per_sample: must be positive"),
        ("trainer", "{}", "field 'seconds_per_sample' is missing"),
    ],
)
def test_a_wrong_field_is_named(refusal, field, value, said):
    line = refusal(changed(field, value))
    assert line.startswith(f"device 'desktop'.{field}")
    assert said in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no device"),
        ("device = []", "has no device"),
        ("[[device]\n", "is no TOML"),
        ("[[devices]]\nname = 'a'", "unknown table 'devices'"),
        ("[[device]]\nlike = 'laptop'", "device 1.name: is missing"),
        (NANO + NANO, "device 'nano'.name: two devices are called so"),
        ("[[device]]\nname = 'a b'", "device 'a b'.name: only letters"),
        (NANO + "relativ_speed = 1", "device 'nano': unknown field 'relativ_speed'"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(refusal, text, said):
    assert said in refusal(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"absent.toml: no such file"):
        read_profiles(tmp_path / "absent.toml")


# The matrix of links.

THREE = "".join(NANO.replace('"nano"', f'"{name}"') for name in "abc")
LINKS = """
[links.a]
b = "100M"
c = { bits_per_second = 40e6, latency_seconds = 0.004 }
[links.b]
c = 40_000_000
"""


def test_the_matrix_decides_on_links(read):
    found = read(THREE + LINKS).profiles(manifest(), REFERENCE)
    ups = {each.device: each.link.up_bits_per_second for each in found}
    assert ups == {"a": 100e6, "b": 100e6, "c": 40e6}


def test_with_a_matrix_devices_need_no_link_of_their_own(read):
    text = changed("link_bits_per_second", "") + NANO + '[links.desktop]\nnano = "50M"'
    found = read(text).profiles(manifest(), REFERENCE)
    assert [each.link.up_bits_per_second for each in found] == [50e6, 50e6]


def test_both_ways_may_differ(read):
    text = THREE + LINKS + '[links.c]\na = "10M"\nb = "10M"'
    links = {each.device: each.link for each in read(text).profiles(manifest(), REFERENCE)}
    assert (links["c"].up_bits_per_second, links["c"].down_bits_per_second) == (10e6, 40e6)


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ('[links.a]\nb = "1M"\nc = "1M"', "links.b.c: is missing; the matrix must have every pair"),
        (LINKS + '[links.d]\na = "1M"', "links.d.a: there is no device 'd'"),
        (LINKS.replace('b = "100M"', 'b = "fast"'), "links.a.b: 'fast' is no rate"),
        (LINKS.replace('b = "100M"', "b = true"), "links.a.b: 'True' is no rate"),
        (LINKS.replace('b = "100M"', "b = -3"), "links.a.b.bits_per_second: must be positive"),
        (LINKS.replace("40e6", "-4e6"), "links.a.c.bits_per_second: must be positive"),
        (LINKS.replace("0.004", "-0.004"), "links.a.c.latency_seconds: must not be negative"),
        (LINKS.replace("bits_per_second = 40e6, ", ""), "links.a.c: field 'bits_per_second' is"),
        (LINKS + 'a = "1M"\nb = "1M"', "links.b.b: a device has no link to itself"),
    ],
)
def test_a_wrong_link_is_named(refusal, links, said):
    assert said in refusal(THREE + links)


@pytest.mark.parametrize("links", ["links = 3\n", "links.a = 3\n"])
def test_links_that_are_no_tables_are_refused(refusal, links):
    assert "expected a table" in refusal(links + THREE)
