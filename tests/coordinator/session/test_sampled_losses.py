"""What tokens the losses of a language model sample: known once, and to all trainers alike."""

import dataclasses
import random

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.fakes.cluster import Cluster, lose
from tests.coordinator.session.histories import plan_of
from tests.coordinator.session.scenarios import Scenario, job_of, resumed
from tests.coordinator.session.test_recovery import alter, answering, finish, happened
from tests.faults.worlds import BLOCKS, plan_for

TEXTS = (0, 1, 2, 3, 4, 5, 6, 7)
NAMES = [DeviceId(f"d{i}") for i in range(3)]


def cluster_of(*, epochs_done: int = 0, **options) -> Cluster:
    """Three devices that train a language model."""
    plan, profiles = plan_of((0,), (1,), (2,)), {name: profile(name) for name in NAMES}
    model = manifest([1] * BLOCKS, encoder_blocks=0, task="causal-lm")
    fields = {"layers": (0, 1), "train": TEXTS, "evaluation": (), "model": model}
    job = job_of(plan, profiles, epochs=2, **fields)
    changed = TrainingOptions(epochs=2, batch_size=3, **options)
    job = dataclasses.replace(job, options=changed, wait_seconds=None)
    job = dataclasses.replace(job, make_plan=lambda measured: plan_for(measured, job, 1))
    if epochs_done:
        job = resumed(job, epochs_done)
    made = Scenario(job=job, plan=plan, profiles=profiles, held={}, train=TEXTS, eval=()).cluster()
    made._window = 10**6
    return made


def counts_of(cluster: Cluster) -> list[np.ndarray | None]:
    return [device.trainer.token_counts for device in cluster.devices.values()]


def test_every_trainer_is_told_the_sum_over_all():
    cluster = cluster_of()
    finish(cluster)
    for told in counts_of(cluster):
        assert set(told.reshape(-1)) == {len(TEXTS)}


def test_a_trainer_that_is_lost_while_it_counts_takes_its_part_along():
    cluster = cluster_of()
    name, _, _ = answering(cluster, m.TokenCounts)
    lose(cluster, name, "gone")
    finish(cluster)
    left = [
        device.trainer.token_counts for other, device in cluster.devices.items() if other != name
    ]
    for told in left:
        assert set(told.reshape(-1)) == {len(TEXTS)}


def test_a_trainer_that_is_lost_before_the_group_has_formed_leaves_what_it_counted():
    cluster = cluster_of()
    name, _, _ = answering(cluster, m.GroupFormed)
    assert cluster.session.state.token_counts is not None
    lose(cluster, name, "gone")
    finish(cluster)
    for other, device in cluster.devices.items():
        if other != name:
            assert set(device.trainer.token_counts.reshape(-1)) == {len(TEXTS)}


def test_after_the_first_update_a_new_group_has_it_from_the_state():
    cluster = cluster_of()
    answering(cluster, m.TrainerState)
    cluster.advance(random.Random(0))
    while not cluster.session.state.saved.step:
        cluster.advance(random.Random(0))
    lose(cluster, NAMES[1], "gone")
    finish(cluster)  # fake trainers refuse to be told again
    assert len(happened(cluster, "group_formed")) == 2


def test_a_run_that_is_gone_on_with_does_not_count_again():
    cluster = cluster_of(epochs_done=1)
    finish(cluster)
    assert counts_of(cluster) == [None] * 3


def test_the_exact_loss_asks_for_nothing():
    cluster = cluster_of(loss="exact")
    finish(cluster)
    assert counts_of(cluster) == [None] * 3


@pytest.mark.parametrize(
    "counts",
    [np.full(4, 1), np.full(1, -1), np.full(1, 1 << 60)],
    ids=["other vocabulary", "negative", "too many"],
)
def test_counts_that_cannot_be_are_not_believed(counts):
    cluster = cluster_of()
    vocabulary = cluster.job.config.num_outputs
    counts = np.resize(counts, (2, vocabulary + 1 if len(counts) > 1 else vocabulary))
    name = alter(cluster, m.TokenCounts, counts=counts.astype(np.int64))
    finish(cluster)
    assert cluster.session.state.members.blame(name), "nobody was blamed before"
    for told in counts_of(cluster):
        assert told is None or set(told.reshape(-1)) == {len(TEXTS)}
