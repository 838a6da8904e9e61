import dataclasses
import logging

import pytest

from coordinator.cluster.profile_store import ProfileCache
from coordinator.planner.problem.links import LinkMeasurement
from coordinator.session.measurements import KnownDevices, KnownLink
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.histories import plan_of, play, scenario_of
from tests.coordinator.session.scenarios import Scenario, job_of

A, B = DeviceId("d0"), DeviceId("d1")


@pytest.fixture
def scenario() -> Scenario:
    return scenario_of(plan_of((0,), (1,)), train=[1, 2], only_plan=True)


@pytest.fixture
def measured(scenario) -> KnownDevices:
    return play(scenario, 1).session.measured


def cache_of(home, scenario, places=None, **changes) -> ProfileCache:
    return ProfileCache(home, dataclasses.replace(scenario.job, **changes), places or {})


def test_what_was_measured_is_known_later(tmp_path, scenario, measured):
    assert cache_of(tmp_path, scenario).read((A, B)) == KnownDevices()
    cache_of(tmp_path, scenario).write(measured)
    assert measured.profiles.keys() == {A, B}
    assert measured.links.keys() == {(A, B), (B, A)}
    assert cache_of(tmp_path, scenario).read((A, B)) == measured
    assert cache_of(tmp_path, scenario).read((A,)).profiles.keys() == {A}
    assert cache_of(tmp_path, scenario).read((A,)).links == {}


def test_files_are_private(tmp_path, scenario, measured):
    cache_of(tmp_path, scenario).write(measured)
    files = list((tmp_path / "profiles").iterdir())
    assert len(files) == 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_times_of_blocks_are_known_by_their_kind_and_those_of_training_by_their_work(
    tmp_path, scenario, measured
):
    cache_of(tmp_path, scenario).write(measured)
    other = job_of(
        scenario.plan, scenario.profiles, layers=(0, 1), train=[5, 5], evaluation=[], epochs=1
    )
    times = measured.profiles[A].times
    for changes, trains_alike in (
        ({"tables": other.tables}, False),
        ({"cache_dtype": "int8"}, False),
        ({"config": dataclasses.replace(scenario.job.config, kind="mlp")}, False),
        ({"adapter_graph": b"trained"}, False),
        ({"manifest": dataclasses.replace(scenario.job.manifest, digest="ef" * 32)}, True),
    ):
        known = cache_of(tmp_path, scenario, **changes).read((A, B))
        assert known.profiles[A].times.blocks == times.blocks
        assert known.profiles[A].times.trainer == (times.trainer if trains_alike else None)
        assert known.links == measured.links


def test_blocks_of_another_kind_are_estimated_by_what_the_device_has_reached(
    tmp_path, scenario, measured
):
    cache_of(tmp_path, scenario).write(measured)
    blocks = tuple(
        dataclasses.replace(block, block_class=f"wide {block.block_class}")
        for block in scenario.job.manifest.blocks
    )
    wide = dataclasses.replace(scenario.job.manifest, blocks=blocks)
    times = cache_of(tmp_path, scenario, manifest=wide).read((A,)).profiles[A].times
    assert not times.blocks
    assert times.reached == measured.profiles[A].times.reached
    assert times.reached.keys() == {wide.quantization}


def test_what_another_bundle_has_taught_is_kept_beside(tmp_path, scenario, measured):
    cache_of(tmp_path, scenario).write(measured)
    known = measured.profiles[A]
    more = {"other kind": known.times.blocks["layer"]}
    other = dataclasses.replace(known, times=dataclasses.replace(known.times, blocks=more))
    cache_of(tmp_path, scenario).write(KnownDevices(profiles={A: other}))
    assert cache_of(tmp_path, scenario).read((A,)).profiles[A] == known


def test_samples_much_longer_than_any_timed_are_measured_anew(tmp_path, scenario, measured):
    known = measured.profiles[A]
    (timing,) = known.times.blocks["layer"]
    short = {"layer": (dataclasses.replace(timing, sequence_length=1),)}
    changed = dataclasses.replace(known, times=dataclasses.replace(known.times, blocks=short))
    cache_of(tmp_path, scenario).write(KnownDevices(profiles={A: changed}))
    longer = job_of(
        scenario.plan, scenario.profiles, layers=(0, 1), train=[5, 5], evaluation=[], epochs=1
    )
    short_now, longer_now = (
        cache_of(tmp_path, scenario, tables=tables).read((A,)).profiles[A].times.blocks
        for tables in (scenario.job.tables, longer.tables)
    )
    assert "layer" in short_now
    assert "layer" not in longer_now


def test_an_emulated_device_with_other_limits_is_another_device(tmp_path, scenario, measured):
    places = {A: ["fast", 1.0], B: ["slow", 1.0]}
    cache_of(tmp_path, scenario, places).write(measured)
    assert cache_of(tmp_path, scenario, places).read((A, B)) == measured
    known = cache_of(tmp_path, scenario, {**places, B: ["slow", 2.0]}).read((A, B))
    assert known.profiles.keys() == {A}
    assert not known.links


def test_a_devices_links_to_others_stay(tmp_path, scenario, measured):
    cache_of(tmp_path, scenario).write(measured)
    other = DeviceId("other")
    end = measured.profiles[A].conditions
    link = LinkMeasurement(bits_per_second=1e6, latency_seconds=0.0)
    more = KnownDevices(links={(A, other): KnownLink(sender=end, receiver=end, link=link)})
    cache = cache_of(tmp_path, scenario)
    cache.read((A, other))
    cache.write(more)
    known = cache_of(tmp_path, scenario).read((A, B, other))
    assert known.links == {**measured.links, **more.links}


def test_what_a_device_was_before_it_changed_is_forgotten(tmp_path, scenario, measured):
    cache_of(tmp_path, scenario).write(measured)
    known = measured.profiles[A]
    changed = dataclasses.replace(
        known,
        conditions=dataclasses.replace(known.conditions, cores=8.0),
        times=dataclasses.replace(known.times, blocks={}, reached={}),
    )
    cache_of(tmp_path, scenario).write(KnownDevices(profiles={A: changed}))
    assert cache_of(tmp_path, scenario).read((A,)).profiles[A] == changed


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format_version": 1}', b"\xff"])
def test_a_damaged_file_is_measured_again_and_logged(tmp_path, scenario, measured, caplog, damage):
    cache_of(tmp_path, scenario).write(measured)
    for path in (tmp_path / "profiles").glob(f"{A}-*"):
        path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        known = cache_of(tmp_path, scenario).read((A, B))
    assert known.profiles.keys() == {B}
    assert known.links.keys() == {(B, A)}
    assert caplog.text.count("measured again") == 2
    cache_of(tmp_path, scenario).write(measured)
    assert cache_of(tmp_path, scenario).read((A, B)) == measured


def test_a_disk_that_refuses_stops_nothing(tmp_path, scenario, measured, caplog):
    (tmp_path / "profiles").write_text("no folder")
    cache_of(tmp_path, scenario).write(measured)
    assert "is not kept" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["profiles"]


def test_impossible_times_are_thrown_away(tmp_path, scenario, measured, caplog):
    known = measured.profiles[A]
    timing = dataclasses.replace(known.times.blocks["layer"][0], seconds_per_token=1e300)
    wrong = dataclasses.replace(known.times, blocks={"layer": (timing,)})
    bad = dataclasses.replace(known, times=wrong)
    cache_of(tmp_path, scenario).write(KnownDevices(profiles={A: bad, B: measured.profiles[B]}))
    assert len(list((tmp_path / "profiles").iterdir())) == 2
    with caplog.at_level(logging.WARNING):
        found = cache_of(tmp_path, scenario).read((A, B))
    assert found.profiles == {B: measured.profiles[B]}
    assert len(list((tmp_path / "profiles").iterdir())) == 1
    assert "measured again" in caplog.text
