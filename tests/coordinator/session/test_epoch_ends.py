"""After each epoch it is known what it is worth; the best is kept, and hopeless runs end."""

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from coordinator.protocol.best_epoch import best_epoch, epochs_since_best
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fakes.cluster import Cluster, lose
from tests.coordinator.session.histories import plan_of, scenario_of
from tests.coordinator.session.scenarios import resumed, state_after

D1 = DeviceId("d1")


def cluster_of(
    losses: Sequence[float], evaluation: Sequence[int] = (3, 4), **changes: Any
) -> Cluster:
    """Two trainers of four lines, which lose this much on evaluation samples after each epoch."""
    scenario = scenario_of(plan_of((0,), (1,)), train=[0, 1, 2, 5], evaluation=evaluation)
    options = dataclasses.replace(scenario.job.options, epochs=len(losses))
    job = dataclasses.replace(
        scenario.job,
        options=options,
        score=lambda outputs: {"loss": losses[int(outputs[0, 1]) - 1]},
        **{"keep": "best", **changes},
    )
    return dataclasses.replace(scenario, job=job).cluster()


def finish(cluster: Cluster) -> Cluster:
    cluster.run(random.Random(1))
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    return cluster


def happened(cluster: Cluster, event: str) -> list[dict[str, Any]]:
    return [record.fields for record in cluster.events if record.event == event]


def of_epoch(cluster: Cluster, epoch: int) -> bytes:
    return state_after(cluster.job, epoch * cluster.job.steps_per_epoch)


@pytest.mark.parametrize(
    ("losses", "best"), [((3, 1, 2), 2), ((3, 2, 1), 3), ((1, 1, 1), 1), ((math.nan, 2, 2), 2)]
)
def test_the_best_epochs_state_is_kept_and_of_equal_ones_the_earliest(losses, best):
    cluster = finish(cluster_of(losses))
    assert cluster.best_state == of_epoch(cluster, best)
    assert cluster.session.record.state == of_epoch(cluster, 3)
    assert [kept.best for kept in cluster.evaluations][-1] == best
    told = happened(cluster, "epoch_evaluated")
    assert [fields["epoch"] for fields in told] == [1, 2, 3]


def test_what_the_last_epoch_is_worth_is_not_computed_twice():
    cluster = finish(cluster_of((2, 1)))
    assert cluster.session.record.outputs_after is None
    assert cluster.session.record.evaluated == {1: {"loss": 2}, 2: {"loss": 1}}


@pytest.mark.parametrize(
    ("patience", "last", "losses"),
    [
        (1, 3, (3, 1, 2, 1, 1, 1)),
        (2, 4, (3, 1, 2, 1, 1, 0)),
        (2, 6, (3, 2, 3, 1, 2, 0)),
        (0, 6, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_training_stops_when_the_loss_has_not_fallen_for_that_many_epochs(patience, last, losses):
    cluster = finish(cluster_of(losses, patience=patience))
    assert cluster.session.record.state == of_epoch(cluster, last)
    stopped = happened(cluster, "stopped_early")
    assert [fields["epoch"] for fields in stopped] == ([last] if last < 6 else [])


def test_nothing_stops_without_samples_to_evaluate_on():
    cluster = finish(cluster_of((1, 2, 3), evaluation=(), patience=1))
    assert cluster.session.record.state == of_epoch(cluster, 3)
    assert not cluster.evaluations


def test_where_the_last_epoch_is_wanted_outputs_are_computed_before_and_after_only():
    cluster = finish(cluster_of((1, 2, 3), keep="last"))
    assert not cluster.evaluations
    assert cluster.session.record.outputs_after is not None
    assert cluster.phases.count("evaluating") == 2


def test_the_last_epoch_may_be_wanted_of_a_run_that_stops():
    cluster = finish(cluster_of((1, 2, 3), keep="last", patience=1))
    assert cluster.session.record.state == of_epoch(cluster, 2)


def test_nobody_trains_on_before_the_epoch_is_evaluated():
    cluster = cluster_of((2, 1))
    chance = random.Random(5)
    while not happened(cluster, "epoch_evaluated"):
        assert cluster.advance(chance)
        replicas = [device.trainer.replica for device in cluster.devices.values()]
        steps = [replica.step for replica in replicas if replica is not None]
        assert max(steps, default=0) <= cluster.job.steps_per_epoch


def test_a_device_that_is_lost_amid_an_evaluation_takes_nothing_with_it():
    cluster = cluster_of((1, 2))
    chance = random.Random(2)
    while not (cluster.session.phase == "evaluating" and happened(cluster, "checkpoint")):
        assert cluster.advance(chance)
    cluster.kill(D1)
    replan = plan_of((0, 1))
    cluster.session.state.job = dataclasses.replace(cluster.job, make_plan=lambda _: replan)
    lose(cluster, D1, "gone")
    finish(cluster)
    assert cluster.best_state == of_epoch(cluster, 1)
    assert [each["epoch"] for each in happened(cluster, "epoch_evaluated")] == [1, 2]


def test_what_was_found_before_a_coordinator_died_counts_and_is_not_computed_again():
    cluster = cluster_of((1, 2, 3, 0))
    job = dataclasses.replace(resumed(cluster.job, 2), patience=2)
    again = dataclasses.replace(job, evaluated={1: {"loss": 1.0}, 2: {"loss": 2.0}})
    finish(cluster := Cluster(again, cluster.profiles, {}, 10**6))
    assert [each["epoch"] for each in happened(cluster, "epoch_evaluated")] == [3]
    assert cluster.session.record.state == of_epoch(cluster, 3)
    assert not cluster.best_state, "what is kept already stays"


def test_an_epoch_that_ended_as_the_coordinator_died_is_evaluated_by_the_next():
    cluster = cluster_of((1, 2))
    job = resumed(cluster.job, 1)
    finish(cluster := Cluster(job, cluster.profiles, {}, 10**6))
    assert [each["epoch"] for each in happened(cluster, "epoch_evaluated")] == [1, 2]
    assert cluster.best_state == of_epoch(cluster, 1)


def test_epochs_beyond_the_one_that_is_looked_at_do_not_count():
    evaluated = {epoch: {"loss": loss} for epoch, loss in enumerate((3.0, 1.0, 2.0, 0.0), 1)}
    assert best_epoch(evaluated) == 4
    assert [epochs_since_best(evaluated, up_to=epoch) for epoch in range(5)] == [None, 0, 0, 1, 0]


def test_of_classifiers_the_accuracy_decides_and_among_equal_ones_the_loss():
    worth = [(0.8, 0.3), (0.9, 0.5), (0.9, 0.4), (0.9, 0.4)]
    evaluated = {
        epoch: {"accuracy": accuracy, "loss": loss}
        for epoch, (accuracy, loss) in enumerate(worth, 1)
    }
    assert best_epoch(evaluated) == 3
