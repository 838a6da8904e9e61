"""Particular jobs: what is measured, computed, moved and passed by."""

import dataclasses
import random

import pytest

from coordinator.protocol.actions import Action, Send
from coordinator.protocol.events import Joined, Received
from coordinator.protocol.job import Job
from coordinator.session.machine import Session
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterKind
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.fakes.cluster import Cluster
from tests.coordinator.session.fakes.device import link_of
from tests.coordinator.session.fakes.trainer import output_of
from tests.coordinator.session.histories import (
    plan_of,
    play,
    scenario_of,
)
from tests.coordinator.session.scenarios import Scenario, job_of, key_of, resumed


def measured_before(scenario: Scenario) -> Cluster:
    """A session of the same devices, of which all was measured in an earlier one."""
    cluster = scenario.cluster()
    cluster.session.reuse(play(scenario, 1).session.measured)
    return cluster


def test_what_is_known_of_devices_and_links_is_not_measured_again():
    scenario = scenario_of(plan_of((0,), (1,), (2,)), train=[1, 2], only_plan=True)
    first, again = play(scenario, 1), measured_before(scenario)
    again.run(random.Random(2))
    for device in first.devices.values():
        assert len(device.probed) == 2
        assert [request.known for request in device.profiled] == [None]
    for name, device in again.devices.items():
        assert not device.probed
        (request,) = device.profiled
        assert request.known == first.session.measured.profiles[name].times
    assert "linking" not in again.phases
    assert again.session.measured == first.session.measured


@pytest.mark.parametrize(
    "change", [{"cores": 0.5}, {"threads": 2}, {"data_address": "tcp://elsewhere:1"}]
)
def test_a_device_that_has_changed_is_measured_again_and_the_others_are_not(change):
    scenario = scenario_of(plan_of((0,), (1,), (2,)), train=[1, 2], only_plan=True)
    cluster = measured_before(scenario)
    changed = cluster.devices[DeviceId("d1")]
    hello = dataclasses.replace(changed.hello(), **change)
    changed.hello = lambda: hello  # type: ignore[method-assign]
    cluster.run(random.Random(2))
    fresh = {name for name, device in cluster.devices.items() if device.profiled[0].known is None}
    assert fresh == {"d1"}
    probed = {(name, peer) for name, device in cluster.devices.items() for peer in device.probed}
    assert probed == {("d0", "d1"), ("d1", "d0"), ("d1", "d2"), ("d2", "d1")}


def test_devices_that_are_only_planned_for_meet_their_peers_while_they_measure_themselves():
    cluster = scenario_of(plan_of((0,), (1,)), train=[1, 2], only_plan=True).cluster()
    session, first, actions = cluster.session, DeviceId("d0"), list[Action]()
    for name, device in cluster.devices.items():
        joined = Joined(device=name, hello=device.hello(), public_key="k" * 40)
        actions = session.handle(joined, 0.0)
    numbers = {
        type(action.message): action.reply
        for action in actions
        if isinstance(action, Send) and action.device == first
    }
    usage = m.Usage(
        phase="profile", cpu_seconds={}, peak_rss_bytes=0, sent_bytes=0, received_bytes=0
    )
    session.handle(Received(device=first, message=usage, reply=numbers[m.BeginPhase]), 0.0)
    assert {m.ProfileRequest, m.Peers} <= set(session.asked[first])


def test_devices_measure_themselves_again_where_that_is_worth_it_and_once():
    scenario = scenario_of(plan_of((0,), (1,)), train=[1, 2], only_plan=True)
    asked: list[list[DeviceId]] = []

    def worth_measuring(profiles):
        asked.append([profile.device for profile in profiles])
        assert all(profile.link for profile in profiles)
        return {DeviceId("d1"): 1.5, DeviceId("gone"): 1.5}

    job = dataclasses.replace(scenario.job, worth_measuring=worth_measuring)
    cluster = play(dataclasses.replace(scenario, job=job), 1)
    assert cluster.finished
    assert asked == [["d0", "d1"]]
    asks = {name: len(device.profiled) for name, device in cluster.devices.items()}
    assert asks == {"d0": 1, "d1": 2}


def sources(cluster: Cluster) -> dict[str, list[str]]:
    return {
        name: [request.source for request in device.profiled]
        for name, device in cluster.devices.items()
    }


def test_how_devices_find_their_times_depends_on_what_it_is_good_for():
    alone = play(scenario_of(plan_of((0,)), train=[1, 2]), 1)
    assert sources(alone) == {"d0": ["estimated"]}
    pair = scenario_of(plan_of((0,), (1,)), train=[1, 2])
    assert sources(play(pair, 1)) == {"d0": ["brief"], "d1": ["brief"]}
    again = measured_before(pair)
    again.run(random.Random(2))
    assert sources(again) == {"d0": ["estimated"], "d1": ["estimated"]}
    job = dataclasses.replace(pair.job, measures_thoroughly=True)
    thorough = play(dataclasses.replace(pair, job=job), 1)
    assert sources(thorough) == {"d0": ["thorough"], "d1": ["thorough"]}


def test_the_plan_is_made_of_profiles_with_links():
    scenario = scenario_of(plan_of((0,), (1,)), train=[1, 2], only_plan=True)
    record = play(scenario, 1).session.record
    rate, latency = link_of(DeviceId("d0"), DeviceId("d1"))
    for device in record.devices.values():
        assert device.profile.link.up_bits_per_second == rate
        assert device.profile.link.latency_seconds == pytest.approx(latency / 2)


def test_planning_only_ends_after_the_plan():
    scenario = scenario_of(plan_of((0, 1)), train=[1, 2], only_plan=True)
    cluster = play(scenario, 1)
    assert cluster.finished
    assert cluster.phases == ["gathering", "profiling", "admitting", "collecting", "finished"]
    assert cluster.session.plan == scenario.plan


def test_there_is_no_plan_before_profiling():
    session = Session(scenario_of(plan_of((0,)), train=[1]).job)
    with pytest.raises(RuntimeError, match="not made yet"):
        _ = session.plan


def test_a_cluster_without_a_plan_is_told_why_and_sent_home():
    def make_plan(profiles):
        raise InfeasibleError("d0 lacks 3 MB")

    cluster = play(scenario_of(plan_of((0,)), train=[1], make_plan=make_plan), 1)
    assert isinstance(cluster.failure, InfeasibleError)
    assert cluster.shut_down == {"d0"}


def test_a_resumed_run_with_all_epochs_behind_it_only_evaluates():
    scenario = scenario_of(plan_of((0, 1)), train=[1, 2], evaluation=[3])
    options = dataclasses.replace(scenario.job.options, epochs=3)
    job = resumed(dataclasses.replace(scenario.job, options=options), 3)
    cluster = play(dataclasses.replace(scenario, job=job), 1)
    assert cluster.finished
    assert cluster.session.record.epochs == []
    assert cluster.session.record.outputs_after.tolist() == [list(output_of(0, 3))]


def test_trainers_without_a_training_or_an_evaluation_sample_take_part():
    plan = plan_of((0,), (1,), (2,), (3,))
    cluster = play(scenario_of(plan, train=[1, 2], evaluation=[3]), 1)
    assert cluster.finished
    owned = [len(device.owned["train"].keys) for device in cluster.devices.values()]
    assert sorted(owned) == [0, 0, 1, 1]
    assert [device.trainer.epochs_done for device in cluster.devices.values()] == [1] * 4
    assert sum("eval" in device.owned for device in cluster.devices.values()) == 1


def test_equal_lines_of_two_owners_are_computed_once_and_kept_by_both():
    cluster = play(scenario_of(plan_of((0,), (1,)), train=[5, 5]), 1)
    assert [len(device.computed) for device in cluster.devices.values()] == [1, 0]
    assert all((key_of(5), 0) in device.cache for device in cluster.devices.values())


def test_an_evaluation_line_that_is_a_training_line_too_is_not_computed_again():
    cluster = play(scenario_of(plan_of((0,), (1,)), train=[1, 2, 3], evaluation=[3, 2, 4]), 1)
    fill = cluster.session.record.fills["eval"]
    assert (fill.samples, fill.computed, fill.reused) == (3, 1, 2)


def test_what_a_trainer_without_shards_has_cached_is_moved_not_computed():
    plan = plan_of((0,))
    profiles = {name: profile(name) for name in (DeviceId("d0"), DeviceId("d1"))}
    held = {DeviceId("d1"): {(key_of(1), layer) for layer in (0, 1)}}
    cluster = play(scenario_of(plan, train=[1], held=held, profiles=profiles), 1)
    assert cluster.finished
    assert cluster.session.record.fills["train"].computed == 0
    assert not cluster.devices[DeviceId("d0")].computed


def test_nothing_is_deployed_when_nothing_is_to_be_computed():
    held = {DeviceId("d0"): {(key_of(text), layer) for text in (1, 2) for layer in (0, 1)}}
    cluster = play(scenario_of(plan_of((0, 1)), train=[1, 2], held=held), 1)
    assert cluster.owed[DeviceId("d0"), m.ANSWER_OF[m.LoadStage]] == 0
    assert cluster.session.record.devices[DeviceId("d0")].received_weight_bytes == 0


def test_samples_stay_where_an_earlier_plan_had_them_cached():
    """The owners' shards are the other way round than before; nothing is moved."""
    texts, split = list(range(12)), plan_of((0, 1), (2, 3))
    first = play(scenario_of(split, train=texts), 1)
    held = {name: device.cache for name, device in first.devices.items()}
    swapped = dataclasses.replace(
        split,
        owners=tuple(
            Owner(device=owner.device, shards=other.shards)
            for owner, other in zip(split.owners, reversed(split.owners), strict=True)
        ),
    )
    again = play(scenario_of(swapped, train=texts, held=held), 1)
    assert again.leases == {}
    assert again.session.plan.owners == split.owners
    assert [record.event for record in again.events].count("plan_made") == 1


WRITERS = {
    "causal-lm": manifest([1] * 2, encoder_blocks=0, task="causal-lm"),
    "seq2seq": manifest([1] * 2, encoder_blocks=1, task="seq2seq"),
}


def owned(job: Job) -> dict[tuple[DeviceId, str], m.OwnSamples]:
    """The samples that devices have been told of as theirs when the session is over."""
    profiles = {name: profile(name) for name in job.devices}
    scenario = Scenario(job=job, plan=SPLIT, profiles=profiles, held={}, train=TEXTS, eval=(8, 2))
    cluster = scenario.cluster()
    cluster.run(random.Random(1))
    assert cluster.finished, cluster.failure
    return {
        (name, which): each
        for name, device in cluster.devices.items()
        for which, each in device.owned.items()
    }


TEXTS, SPLIT = tuple(range(6)), plan_of((0, 1), (2,))


def writing_job(task: str, kind: AdapterKind) -> Job:
    profiles = {name: profile(name) for name in SPLIT.devices}
    texts = {"train": TEXTS, "evaluation": (8, 2)}
    job = job_of(SPLIT, profiles, layers=(0, 1), epochs=1, model=WRITERS[task], **texts)
    return dataclasses.replace(job, config=dataclasses.replace(job.config, kind=kind))


@pytest.mark.parametrize("task", WRITERS)
def test_owners_are_told_the_tokens_of_their_samples_where_the_adapter_reads_them(task):
    job = writing_job(task, "pointer")
    told = owned(job)
    assert {which for _, which in told} == {"train", "eval"}
    for (_, which), request in told.items():
        rows = job.tables[which].samples.tokens_of("decoder")
        expected = [i for line in request.indices.tolist() for i in rows[line].tolist()]
        assert request.tokens is not None
        assert request.tokens.tolist() == expected
        assert len(expected) == request.lengths["decoder"].sum()


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_owners_are_told_no_tokens_that_nothing_reads(kind):
    assert all(request.tokens is None for request in owned(writing_job("causal-lm", kind)).values())


def test_owners_are_told_tokens_where_one_of_the_settings_that_are_tried_reads_them():
    job = writing_job("causal-lm", "mlp")
    usual = m.Setting(number=0, config=job.config, options=job.options)
    pointer = dataclasses.replace(job.config, kind="pointer")
    other = dataclasses.replace(usual, number=1, config=pointer)
    assert not dataclasses.replace(job, settings=(usual,)).copies
    assert dataclasses.replace(job, settings=(usual, other)).copies
