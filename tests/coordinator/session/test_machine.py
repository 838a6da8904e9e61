"""What holds for every job and every interleaving; see also the checks in ``Cluster``."""

import collections
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.protocol.job import Job
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fakes.trainer import count_of, loss_of, output_of
from tests.coordinator.session.histories import (
    generated,
    play,
    seeds,
)
from tests.coordinator.session.scenarios import Scenario, key_of, lengths_of, scenarios, state_after

ORDER = re.compile(
    "gathering (profiling )?(admitting )?(linking )?open_caches "
    "((deploying )?(filling )?commit_cache ){1,2}"
    "setting-up (evaluating )?(training )?(evaluating )?collecting finished "
)


def epochs_done(job: Job) -> int:
    return job.steps_done // max(1, job.steps_per_epoch)


def new_texts(scenario: Scenario) -> tuple[set[int], set[int]]:
    """Distinct texts that the fill of training, then of evaluation lines has to compute."""
    train = {text for text in scenario.train if not scenario.whole(text)}
    evaluation = {text for text in scenario.eval if not scenario.whole(text)}
    return train, evaluation - set(scenario.train)


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
        range(epochs_done(job) + 1, job.options.epochs + 1)
    )
    for epoch in epochs:
        assert (epoch.sums.samples, epoch.sums.count) == (count, divisor)
        expected = sum(loss_of(line, epoch.epoch) for line in range(count)) / max(1, divisor)
        assert epoch.train_loss == pytest.approx(expected)


@generated
@given(scenarios(), seeds)
def test_outputs_are_put_together_by_line(scenario, seed):
    assume(scenario.eval)
    job, record = scenario.job, play(scenario, seed).session.record
    lines = range(len(scenario.eval))
    if job.evaluate_before:
        expected = [output_of(line, epochs_done(job)) for line in lines]
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
    epochs = ["steps_applied", "epoch_finished", "checkpoint"] * (
        job.options.epochs - epochs_done(job)
    )
    joined = ["device_joined"] * len(job.devices)
    group = ["group_formed"] if "steps_applied" in epochs else []
    expected = [*joined, "plan_made", *fill, *group, *epochs, "finished"]
    assert [record.event for record in cluster.events] == expected
    for record in cluster.events[: len(joined)]:
        assert record.fields.get("pid") == (7 if job.local else None)
    saved = [(saved.epoch, saved.state) for saved in cluster.checkpoints]
    assert saved == [
        (epoch, state_after(job, epoch * job.steps_per_epoch))
        for epoch in range(epochs_done(job) + 1, job.options.epochs + 1)
    ]


@generated
@given(scenarios(), seeds)
def test_the_final_usage_is_the_one_after_all_work(scenario, seed):
    cluster = play(scenario, seed)
    for name, record in cluster.session.record.devices.items():
        assert record.usage is not None
        assert cluster.owed[name, m.Usage] == 0
