import dataclasses
import logging

import pytest

from coordinator.cluster.profile_store import ProfileCache
from coordinator.planner.problem.links import LinkMeasurement
from coordinator.session.measurements import KnownDevices, KnownLink, KnownProfile
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.problems import profile
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


def test_other_data_or_another_bundle_are_measured_anew_and_links_are_not(
    tmp_path, scenario, measured
):
    cache_of(tmp_path, scenario).write(measured)
    other = job_of(
        scenario.plan, scenario.profiles, layers=(0, 1), train=[5, 5], evaluation=[], epochs=1
    )
    for changes in (
        {"tables": other.tables},
        {"cache_dtype": "int8"},
        {"config": dataclasses.replace(scenario.job.config, kind="mlp")},
        {"adapter_graph": b"trained"},
        {"manifest": dataclasses.replace(scenario.job.manifest, digest="ef" * 32)},
    ):
        known = cache_of(tmp_path, scenario, **changes).read((A, B))
        assert not known.profiles, changes
        assert known.links == measured.links


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


def test_what_is_known_is_not_written_again_unless_it_was_not_asked_for(
    tmp_path, scenario, measured
):
    cache_of(tmp_path, scenario).write(measured)
    small = profile(A, memory=1)
    changed = KnownProfile(conditions=measured.profiles[A].conditions, profile=small)
    again = KnownDevices(profiles={**measured.profiles, A: changed}, links=measured.links)
    reading = cache_of(tmp_path, scenario)
    reading.read((A, B))
    reading.write(again)
    assert cache_of(tmp_path, scenario).read((A, B)) == measured
    cache_of(tmp_path, scenario).write(again)
    assert cache_of(tmp_path, scenario).read((A, B)) == again


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format_version": 2}', b"\xff"])
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


def test_a_profile_of_another_model_or_of_impossible_times_is_thrown_away(
    tmp_path, scenario, measured, caplog
):
    wrong = (
        profile("d0", layer=1e300),
        dataclasses.replace(profile("d0"), blocks={"x": profile("d0").blocks["layer"]}),
    )
    for bad in wrong:
        known = dataclasses.replace(measured.profiles[A], profile=bad)
        cache = cache_of(tmp_path, scenario)
        cache.write(KnownDevices(profiles={A: known, B: measured.profiles[B]}))
        assert len(list((tmp_path / "profiles").iterdir())) == 2
        with caplog.at_level(logging.WARNING):
            found = cache_of(tmp_path, scenario).read((A, B))
        assert found.profiles == {B: measured.profiles[B]}
        assert len(list((tmp_path / "profiles").iterdir())) == 1
        assert "measured again" in caplog.text
