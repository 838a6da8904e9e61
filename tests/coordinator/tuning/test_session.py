"""A session that tries settings: who trains them, what is kept, what an interruption means."""

import dataclasses
import random

import numpy as np
import pytest

from coordinator.protocol.events import Received
from coordinator.protocol.record import SessionRecord
from coordinator.tuning.design import draw_settings
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import DeviceFailedError, InfeasibleError, UnresumableError
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.fakes.cluster import Cluster, lose
from tests.coordinator.session.histories import plan_of
from tests.coordinator.session.scenarios import Scenario, job_of
from tests.coordinator.session.test_recovery import alter, answering, happened
from tests.faults.worlds import BLOCKS, plan_for

TEXTS, EVAL = tuple(range(16)), (20, 21, 22)
NAMES = [DeviceId(f"d{i}") for i in range(2)]


def cluster_of(
    *, owners: int = 1, settings: int = 4, devices: int = 2, epochs: int = 2, **model
) -> Cluster:
    """Some devices, of which the first ones own samples; epochs of four updates."""
    plan, profiles = plan_of((0, 1, 2, 3)), {name: profile(name) for name in NAMES[:devices]}
    fields = {"layers": (0, 1), "train": TEXTS, "evaluation": EVAL}
    job = job_of(plan, profiles, epochs=epochs, model=manifest([1] * BLOCKS, **model), **fields)
    drawn = draw_settings(job.config, job.options, settings)
    job = dataclasses.replace(job, wait_seconds=None, settings=drawn)

    def make_plan(known):
        trainers = [
            each if place < owners else dataclasses.replace(each, roles=("backbone",), trainer=None)
            for place, each in enumerate(known)
        ]
        return plan_for(trainers, job, 1)

    job = dataclasses.replace(job, make_plan=make_plan)
    made = Scenario(job=job, plan=plan, profiles=profiles, held={}, train=TEXTS, eval=EVAL)
    cluster = made.cluster()
    cluster._window = 10**6
    return cluster


def played(cluster: Cluster) -> SessionRecord:
    cluster.run(random.Random(1))
    return cluster.session.record


def test_settings_of_a_language_model_are_told_once_what_tokens_are_sampled_by():
    cluster = cluster_of(encoder_blocks=0, task="causal-lm")
    record = played(cluster)  # fake settings refuse to be told again, or not to be
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert record.race.best is not None
    assert (cluster.session.state.token_counts == len(TEXTS)).all()


def test_settings_are_halved_and_the_best_one_s_adapter_is_kept():
    cluster = cluster_of()
    record = played(cluster)
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert cluster.devices[NAMES[0]].trainer.settings.tried == [(0, 1, 2, 3), (0, 3), (0, 3)]
    assert record.race.best == (3, 4)
    assert cluster.devices[NAMES[0]].trainer.request.config == cluster.job.settings[3].config
    assert cluster.devices[NAMES[0]].trainer.request.options == cluster.job.settings[3].options
    assert record.outputs_after is not None
    assert [epoch.sums.samples for epoch in record.epochs] == [len(TEXTS)] * 2


def test_of_classifiers_the_most_accurate_one_is_kept_whatever_its_loss():
    cluster = cluster_of(devices=1)
    cluster.devices[NAMES[0]].trainer.settings.correct = lambda number, step: int(number == 0)
    record = played(cluster)
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert record.race.best == (0, 4), "setting 3 has the lowest loss"
    assert cluster.devices[NAMES[0]].trainer.settings.tried == [(0, 1, 2, 3), (0, 3), (0, 3)]
    assert [worth.accuracy for worth in record.race.reached[-1].worth.values()] == [1 / 3, 0]
    assert [each["best"] for each in happened(cluster, "settings_trained")] == [0, 0, 0]


def test_what_diverges_after_an_epoch_that_was_good_takes_nothing_with_it():
    cluster = cluster_of(devices=1)
    owner = cluster.devices[NAMES[0]].trainer
    owner.settings.loss = lambda number, step: 1 / (1 + number) if step <= 4 else np.inf
    record = played(cluster)
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert record.race.best == (3, 4)
    assert [epoch.epoch for epoch in record.epochs] == [1]


def test_epochs_that_the_best_setting_was_not_trained_in_are_not_reported_as_its_own():
    cluster = cluster_of(devices=1, epochs=8)
    owner = cluster.devices[NAMES[0]].trainer
    owner.settings.loss = lambda number, step: 0.1 if (number, step) == (3, 4) else 9.0 + number
    record = played(cluster)
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert [len(each.worth) for each in record.race.reached][:3] == [4, 4, 2]
    assert record.race.best == (3, 4)
    assert [epoch.epoch for epoch in record.epochs] == [1, 2]


def test_a_tuning_that_is_interrupted_begins_again():
    cluster = cluster_of()
    name, _, _ = answering(cluster, m.SettingsTrained)
    cluster.kill(name)
    lose(cluster, name, "gone")
    record = played(cluster)
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert len(happened(cluster, "tuning_began")) == 2
    assert [len(each.worth) for each in record.race.reached] == [4, 2, 2]


def test_a_device_that_asks_for_relief_goes_on_tuning_where_nobody_else_could():
    cluster = cluster_of(devices=1)
    name, _, _ = answering(cluster, m.SettingsTrained)
    cluster.tell(Received(device=name, message=m.Relief(reason="battery at 10%")))
    played(cluster)
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert len(happened(cluster, "tuning_began")) == 1


def test_a_device_that_has_nothing_to_do_any_more_may_sleep_while_another_tunes():
    cluster = cluster_of()
    owner, _, _ = answering(cluster, m.SettingsTrained)
    for _ in range(2):  # the second time what they send is forwarded already
        lost = m.PeerLost(peer=NAMES[1], reason="no route")
        cluster.tell(Received(device=owner, message=lost))
    played(cluster)
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert len(happened(cluster, "tuning_began")) == 1
    assert not cluster.session.state.members.quarantined


def test_several_owners_are_refused_in_one_line():
    cluster = cluster_of(owners=2)
    played(cluster)
    assert isinstance(cluster.failure, InfeasibleError)
    assert "--tune trains on one device" in str(cluster.failure)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"losses": np.full(4, np.inf)}, UnresumableError),
        ({"sums": (m.EpochSums(epoch=1, steps=3, samples=12, count=12),) * 4}, DeviceFailedError),
        ({"correct": np.array([0, 1, len(EVAL) + 1, 0])}, DeviceFailedError),
    ],
    ids=["nothing is finite", "another step", "more right than there are"],
)
def test_what_cannot_be_is_not_believed(changes, error):
    cluster = cluster_of(devices=1)
    alter(cluster, m.SettingsTrained, **changes)
    played(cluster)
    assert isinstance(cluster.failure, error)
