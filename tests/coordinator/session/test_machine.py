import collections
import dataclasses
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.protocol.actions import Fail
from coordinator.protocol.events import Joined, Lost, Received
from coordinator.session.machine import Session
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import BadInputError, InfeasibleError, StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fake_cluster import Cluster, lose
from tests.coordinator.session.fake_device import (
    count_of,
    link_of,
    loss_of,
    output_of,
    state_of,
)
from tests.coordinator.session.scenarios import Scenario, job_of, key_of, lengths_of, scenarios

ORDER = re.compile(
    "gathering profiling admitting (linking )?open_caches "
    "((deploying )?(filling )?commit_cache ){1,2}"
    "setting-up (evaluating )?(training )?(evaluating )?collecting finished "
)

SAMPLES_READY = m.SamplesReady(
    which="eval", missing=np.zeros(1, np.int32), cache_bytes=0, cache_samples=0
)

seeds = st.integers(0, 2**32)
generated = settings(max_examples=50, deadline=None, derandomize=True)


def play(scenario: Scenario, seed: int, slow: DeviceId | None = None) -> Cluster:
    cluster = scenario.cluster()
    cluster.run(random.Random(seed), slow)
    return cluster


def new_texts(scenario: Scenario) -> tuple[set[int], set[int]]:
    """Distinct texts that the fill of training, then of evaluation lines has to compute."""
    train = {text for text in scenario.train if not scenario.whole(text)}
    evaluation = {text for text in scenario.eval if not scenario.whole(text)}
    return train, evaluation - set(scenario.train)


# ---- what holds for every job and every interleaving (and see the checks in Cluster)


@generated
@given(scenarios(), seeds, st.integers(0, 4))
def test_a_session_finishes_whatever_the_interleaving(scenario, seed, slow):
    cluster = play(scenario, seed, DeviceId(f"d{slow}"))
    assert cluster.failure is None
    assert cluster.finished
    assert cluster.shut_down == set(scenario.profiles)
    names = (phase.replace(" ", "-") for phase in cluster.phases)
    assert ORDER.fullmatch("".join(f"{name} " for name in names)), cluster.phases


@generated
@given(scenarios(), seeds)
def test_every_owner_ends_with_every_layer_of_every_line_it_owns(scenario, seed):
    cluster = play(scenario, seed)
    for which, lines in scenario.job.tables.items():
        texts = scenario.train if which == "train" else scenario.eval
        plan = cluster.session.plan
        assert [len(owner.shards) for owner in plan.owners] == [
            len(owner.shards) for owner in scenario.plan.owners
        ]
        for owner in plan.owners:
            for line in lines.owned_by(plan, owner.device):
                wanted = {(key_of(texts[line]), layer) for layer in scenario.job.config.layers}
                assert wanted <= cluster.devices[owner.device].cache


@generated
@given(scenarios(), seeds)
def test_each_distinct_sample_that_no_cache_holds_is_computed_once_and_no_other(scenario, seed):
    cluster = play(scenario, seed)
    computed = collections.Counter(
        key for device in cluster.devices.values() for key in device.computed
    )
    train, evaluation = new_texts(scenario)
    assert computed == collections.Counter(key_of(text) for text in train | evaluation)


@generated
@given(scenarios(), seeds)
def test_every_stage_serves_every_micro_batch_once(scenario, seed):
    cluster = play(scenario, seed)
    served = [entry for device in cluster.devices.values() for entry in device.served]
    numbers = {number for number, _ in served}
    stages = range(len(scenario.plan.stages))
    assert sorted(served) == [(number, stage) for number in sorted(numbers) for stage in stages]
    records = cluster.session.record.devices
    assert {name: record.served_batches for name, record in records.items()} == {
        name: len(device.served) for name, device in cluster.devices.items()
    }


@generated
@given(scenarios(), seeds)
def test_the_record_counts_what_was_computed_and_what_was_reused(scenario, seed):
    cluster = play(scenario, seed)
    lines = {"train": scenario.train, "eval": scenario.eval}
    for which, new in zip(("train", "eval"), new_texts(scenario), strict=True):
        fill = cluster.session.record.fills.get(which)
        if not lines[which]:
            assert fill is None
            continue
        distinct = len(set(lines[which]))
        found = (fill.samples, fill.computed, fill.reused, fill.tokens)
        tokens = sum(sum(lengths_of(text, scenario.job.manifest).values()) for text in new)
        assert found == (distinct, len(new), distinct - len(new), tokens)
        assert fill.seconds >= 0
    record = cluster.session.record
    assert record.stored == record.to_store


@generated
@given(scenarios(training=True), seeds)
def test_an_epochs_loss_is_the_mean_over_all_that_counts_at_all_trainers(scenario, seed):
    cluster = play(scenario, seed)
    job, count = scenario.job, len(scenario.train)
    table = job.tables["train"]
    divisor = count_of(table.targets_of(np.arange(count)))
    epochs = cluster.session.record.epochs
    assert [epoch.epoch for epoch in epochs] == list(
        range(job.epochs_done + 1, job.options.epochs + 1)
    )
    for epoch in epochs:
        assert (epoch.samples, epoch.count) == (count, divisor)
        expected = sum(loss_of(line, epoch.epoch) for line in range(count)) / max(1, divisor)
        assert epoch.train_loss == pytest.approx(expected)


@generated
@given(scenarios(), seeds)
def test_outputs_are_put_together_by_line(scenario, seed):
    job, record = scenario.job, play(scenario, seed).session.record
    if not scenario.eval:
        return
    lines = range(len(scenario.eval))
    if job.evaluate_before:
        expected = [output_of(line, job.epochs_done) for line in lines]
        np.testing.assert_array_equal(record.outputs_before[:, :2], np.array(expected))
    if job.options.epochs:
        expected = [output_of(line, job.options.epochs) for line in lines]
        np.testing.assert_array_equal(record.outputs_after[:, :2], np.array(expected))
        assert record.outputs_after.shape[1] == (3 if job.config.generative else 2)


@generated
@given(scenarios(), seeds)
def test_the_events_are_those_of_the_design(scenario, seed):
    cluster, job = play(scenario, seed), scenario.job
    fill = ["fill_started", "fill_finished"] if scenario.train else []
    epochs = ["epoch_finished", "checkpoint"] * (job.options.epochs - job.epochs_done)
    joined = ["device_joined"] * len(job.devices)
    expected = [*joined, "plan_made", *fill, *epochs, "finished"]
    assert [record.event for record in cluster.events] == expected
    for record in cluster.events[: len(joined)]:
        assert record.fields.get("pid") == (7 if job.local else None)
    saved = [(saved.epoch, saved.state) for saved in cluster.checkpoints]
    assert saved == [
        (epoch, state_of(epoch)) for epoch in range(job.epochs_done + 1, job.options.epochs + 1)
    ]


@generated
@given(scenarios(), seeds)
def test_the_final_usage_is_the_one_after_all_work(scenario, seed):
    cluster = play(scenario, seed)
    for name, record in cluster.session.record.devices.items():
        assert record.usage is not None
        assert cluster.owed[name, m.Usage] == 0
        assert record.usage.phase == "eval"


# ---- faults


def says_how_to_go_on(cluster: Cluster) -> bool:
    """Training is resumed, anything else is tried again."""
    trains = cluster.session.job.options.epochs > 0
    said = str(cluster.failure)
    return ("--resume" in said, said.endswith("try again")) == (trains, not trains)


@generated
@given(scenarios(), seeds, st.integers(0, 400), st.data())
def test_a_lost_device_stops_the_session_for_a_resume(scenario, seed, steps, data):
    cluster, chance = scenario.cluster(), random.Random(seed)
    for _ in range(steps):
        cluster.advance(chance)
    if cluster.finished:
        return
    lost = data.draw(st.sampled_from(sorted(scenario.profiles)))
    joined = set(cluster.joined)
    actions = lose(cluster, lost, "its process ended")
    assert isinstance(cluster.failure, StoppedError)
    assert lost in str(cluster.failure)
    assert says_how_to_go_on(cluster)
    assert cluster.events[-1].event == "device_lost"
    assert cluster.events[-1].fields == {"device": lost, "reason": "its process ended"}
    assert cluster.shut_down == joined - {lost}
    assert isinstance(actions[-1], Fail)
    before = len(cluster.events)
    cluster.run(chance)  # the Cluster asserts that the session does nothing any more
    assert len(cluster.events) == before


@generated
@given(scenarios(), seeds, st.integers(1, 200), st.data())
def test_a_device_that_fails_stops_the_session_and_its_reason_is_told(scenario, seed, steps, data):
    cluster, chance = scenario.cluster(), random.Random(seed)
    for _ in range(steps):
        cluster.advance(chance)
    if cluster.finished:
        return
    device = data.draw(st.sampled_from(sorted(cluster.joined)))
    cluster.tell(Received(device=device, message=m.Failed(reason="out of memory")))
    assert str(cluster.failure).startswith(f"{device}: out of memory; ")
    assert says_how_to_go_on(cluster)
    assert cluster.shut_down == cluster.joined
    cluster.run(chance)


@generated
@given(scenarios(), seeds, st.integers(1, 200), st.data())
def test_out_of_memory_before_the_plan_cannot_be_resumed_and_after_it_can(
    scenario, seed, steps, data
):
    cluster, chance = scenario.cluster(), random.Random(seed)
    for _ in range(steps):
        cluster.advance(chance)
    if cluster.finished:
        return
    device = data.draw(st.sampled_from(sorted(cluster.joined)))
    planned = cluster.session.record.plan is not None
    cluster.tell(Lost(device=device, reason=f"{device} is too small", out_of_memory=True))
    assert f"{device} is too small" in str(cluster.failure)
    assert isinstance(cluster.failure, StoppedError if planned else InfeasibleError)


def noise(scenario: Scenario) -> st.SearchStrategy[m.Message]:
    """Any message that a device can send, with contents that may be true or not."""
    numbers = st.integers(0, 30)
    layers = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    indices = st.lists(st.integers(-3, 12), max_size=4).map(lambda x: np.array(x, np.int32))
    empty = np.zeros(0, np.int32)
    return st.one_of(
        st.builds(m.Stored, number=numbers, layers=layers, samples=st.integers(0, 5)),
        st.builds(
            m.EpochDone,
            epoch=st.integers(0, 4),
            samples=numbers,
            count=numbers,
            loss_sum=st.just(1e9),
            seconds=st.just(0.0),
        ),
        indices.map(lambda x: m.Outputs(indices=x, outputs=np.full((len(x), 2), 9e9, np.float32))),
        st.builds(m.ProfileDone, profile=st.sampled_from(list(scenario.profiles.values()))),
        st.builds(m.CacheStatus, held=st.just(np.ones(3, bool)), bytes_used=st.just(0)),
        st.builds(
            m.StageReady,
            first=st.just(0),
            last=st.just(1),
            received_bytes=st.just(99),
            seconds=st.just(0.0),
        ),
        st.sampled_from(["train", "eval"]).map(
            lambda which: m.SamplesReady(
                which=which, missing=np.zeros(1, np.int32), cache_bytes=99, cache_samples=99
            )
        ),
        st.just(m.TrainerState(data=np.zeros(4, np.uint8))),
        st.just(m.TrainingReady(parameters=99)),
        st.just(m.PeersReady()),
        st.just(m.Heartbeat()),
        st.just(
            m.Usage(phase="eval", cpu_seconds={}, peak_rss_bytes=9, sent_bytes=9, received_bytes=9)
        ),
        # What only the coordinator or a peer sends.
        st.just(m.Shutdown()),
        st.just(m.TrainEpoch(epoch=1)),
        st.just(m.Credit(size_bytes=1)),
        st.just(
            m.States(
                number=0,
                keys=np.zeros((0, 32), np.uint8),
                lengths=empty,
                layers=(0,),
                encoded=np.zeros((1, 0, 4), np.uint8),
                numerics="",
            )
        ),
    )


def is_asked_for(cluster: Cluster, device: DeviceId, message: m.Message) -> bool:
    """Whether the device owes this very answer, so that the session has to believe it."""
    if isinstance(message, m.Stored):
        lease = cluster.leases.get(message.number, set())
        return any((device, layer) in lease for layer in message.layers)
    return cluster.owed[device, type(message)] > 0


def summary(cluster: Cluster) -> dict[str, object]:
    record = cluster.session.record
    before, after = record.outputs_before, record.outputs_after
    return {
        "fills": {which: (fill.samples, fill.computed) for which, fill in record.fills.items()},
        "epochs": [(epoch.epoch, epoch.samples, epoch.loss_sum) for epoch in record.epochs],
        "parameters": record.parameters,
        "state": record.state,
        "before": None if before is None else before.tolist(),
        "after": None if after is None else after.tolist(),
        "events": [record.event for record in cluster.events],
        "caches": [device.cache for device in cluster.devices.values()],
        "sizes": [
            (seen.cache_bytes, seen.received_weight_bytes) for seen in record.devices.values()
        ],
    }


@generated
@given(scenarios(), seeds, st.data())
def test_messages_that_nobody_asked_for_change_nothing(scenario, seed, data):
    messages = st.lists(noise(scenario), min_size=1, max_size=25)
    made_up = data.draw(messages)
    cluster, chance = scenario.cluster(), random.Random(seed)
    other = random.Random(seed + 1)
    while cluster.advance(chance):
        if cluster.joined and other.random() < 0.3:
            device, message = other.choice(sorted(cluster.joined)), other.choice(made_up)
            if not is_asked_for(cluster, device, message):
                assert cluster.tell(Received(device=device, message=message)) == []
    assert cluster.finished
    assert summary(cluster) == summary(play(scenario, seed))


# ---- particular jobs


def scenario_of(
    plan: Plan, *, train=(), evaluation=(), held=None, profiles=None, **changes
) -> Scenario:
    """One epoch over these texts, with two cached layers."""
    profiles = profiles or {name: profile(name) for name in plan.devices}
    job = job_of(plan, profiles, layers=(0, 1), train=train, evaluation=evaluation, epochs=1)
    return Scenario(
        job=dataclasses.replace(job, **changes),
        plan=plan,
        profiles=profiles,
        held=held or {},
        train=tuple(train),
        eval=tuple(evaluation),
    )


def plan_of(*owners: tuple[int, ...], micro_batch_size: int = 2) -> Plan:
    """One stage on the first device; trainer i owns the shards ``owners[i]``."""
    return Plan(
        stages=(Stage(first=0, last=2, devices=(StageDevice(device=DeviceId("d0")),)),),
        owners=tuple(
            Owner(device=DeviceId(f"d{i}"), shards=shards) for i, shards in enumerate(owners)
        ),
        num_shards=sum(map(len, owners)),
        micro_batch_size=micro_batch_size,
    )


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
        assert request.known == first.session.record.devices[name].profile
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
    job = dataclasses.replace(scenario.job, options=options, epochs_done=3, state=state_of(3))
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
    assert [device.epochs_done for device in cluster.devices.values()] == [1] * 4
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


def until(cluster: Cluster, phase: str) -> None:
    chance = random.Random(3)
    while cluster.session.phase != phase:
        assert cluster.advance(chance)


@pytest.mark.parametrize(
    ("phase", "message", "reason"),
    [
        ("profiling", m.ProfileDone(profile=profile("other")), "profile of another device"),
        ("open_caches", m.CacheStatus(held=np.ones(9, bool), bytes_used=0), "other samples"),
        (
            "commit_cache",
            m.SamplesReady(
                which="train", missing=np.zeros(2, np.int32), cache_bytes=0, cache_samples=0
            ),
            "2 samples did not stay",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0, 7]), outputs=np.zeros((2, 2), np.float32)),
            "other samples",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0.0, 1.0]), outputs=np.zeros((2, 2), np.float32)),
            "other samples",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0, 0]), outputs=np.zeros((2, 2), np.float32)),
            "other samples",
        ),
        (
            "evaluating",
            m.Outputs(indices=np.array([0, 1]), outputs=np.zeros((2, 3), np.float32)),
            "other samples",
        ),
    ],
)
def test_an_answer_that_cannot_be_true_stops_the_session(phase, message, reason):
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3], evaluation=[4, 5]).cluster()
    until(cluster, phase)
    cluster.tell(Received(device=DeviceId("d0"), message=message))
    assert isinstance(cluster.failure, StoppedError)
    assert reason in str(cluster.failure)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("commit_cache", SAMPLES_READY),
        ("training", m.EpochDone(epoch=2, samples=3, count=3, loss_sum=1.0, seconds=0.0)),
        ("loading", m.StageReady(first=0, last=1, received_bytes=0, seconds=0.0)),
        ("filling", m.Stored(number=0, layers=(0, 1, 2), samples=2)),
        ("filling", m.Stored(number=0, layers=(0,), samples=1)),
        ("filling", m.Stored(number=9, layers=(0,), samples=2)),
    ],
)
def test_an_answer_to_another_question_is_ignored(phase, message):
    cluster = scenario_of(plan_of((0, 1)), train=[1, 2, 3], evaluation=[4, 5]).cluster()
    chance, device = random.Random(3), DeviceId("d0")
    while cluster.session.phase != phase and not (
        phase == "loading" and cluster.owed[device, m.StageReady]
    ):
        assert cluster.advance(chance)
    assert cluster.tell(Received(device=device, message=message)) == []
    cluster.run(chance)
    assert cluster.finished


def test_a_device_that_joins_again_has_lost_its_place():
    cluster = scenario_of(plan_of((0,), (1,)), train=[1, 2]).cluster()
    until(cluster, "profiling")
    device = DeviceId("d1")
    hello = cluster.devices[device].hello()
    cluster.tell(Joined(device=device, hello=hello, public_key="key"))
    assert isinstance(cluster.failure, StoppedError)
    assert "--resume" in str(cluster.failure)


def test_a_plan_that_stops_is_not_resumed():
    scenario = scenario_of(plan_of((0,), (1,)), train=[1, 2])
    job = dataclasses.replace(scenario.job, only_plan=True)
    cluster = dataclasses.replace(scenario, job=job).cluster()
    until(cluster, "profiling")
    lose(cluster, DeviceId("d1"), "its process ended")
    assert str(cluster.failure) == "d1 was lost: its process ended; try again"


@pytest.mark.parametrize(("software", "alike"), [("0.1.9", True), ("0.2.0", False), ("", False)])
def test_a_device_of_another_minor_version_is_refused(monkeypatch, software, alike):
    monkeypatch.setattr("coordinator.session.failures.__version__", "0.1.0")
    cluster = scenario_of(plan_of((0,)), train=[1]).cluster()
    device = DeviceId("d0")
    hello = dataclasses.replace(cluster.devices[device].hello(), software=software)
    actions = cluster.session.handle(Joined(device=device, hello=hello, public_key="key"), 0.0)
    failures = [action.error for action in actions if isinstance(action, Fail)]
    assert [type(error) for error in failures] == [BadInputError] * (not alike)
    for error in failures:
        assert str(error).startswith(f"d0 runs pacplus {software}")
        assert "0.1.0" in str(error)


def test_strangers_are_not_answered():
    session = Session(scenario_of(plan_of((0,)), train=[1]).job)
    stranger = DeviceId("stranger")
    hello = m.Hello(software="", roles=("trainer",), data_address="tcp://x:1", process_id=1)
    assert session.handle(Joined(device=stranger, hello=hello, public_key=""), 0.0) == []
    assert session.handle(Received(device=stranger, message=m.Heartbeat()), 0.0) == []
    assert session.handle(Received(device=stranger, message=m.Failed(reason="x")), 0.0) == []
    assert session.handle(Lost(device=stranger, reason="x"), 0.0) == []
    assert session.phase == "gathering"


def test_the_fill_follows_the_order_of_the_first_epoch():
    scenario = scenario_of(plan_of((0, 1)), train=list(range(9)))
    cluster = play(scenario, 1)
    order = scenario.job.tables["train"].fill_order(2, scenario.job.options.seed)
    expected = [key_of(scenario.train[line]) for line in order]
    assert cluster.devices[DeviceId("d0")].computed == expected


def test_a_heartbeat_is_answered_by_nothing():
    cluster = scenario_of(plan_of((0,)), train=[1]).cluster()
    until(cluster, "profiling")
    assert cluster.tell(Received(device=DeviceId("d0"), message=m.Heartbeat())) == []


def test_every_device_learns_of_all_the_others():
    cluster = scenario_of(plan_of((0,), (1,), (2,)), train=[1, 2, 3]).cluster()
    until(cluster, "open_caches")
    chance = random.Random(1)
    while not all(device.peers for device in cluster.devices.values()):
        assert cluster.advance(chance)
    for name, device in cluster.devices.items():
        assert device.peers == set(cluster.devices) - {name}
