"""Between epochs, owners change if what was seen says that it pays for what it costs."""

import dataclasses
import random

import pytest

from coordinator.planner.problem.calibrate import run_factors
from coordinator.protocol.record import EpochRecord
from coordinator.session import experience
from coordinator.session.seen import predict_rest
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import TrainerProfile
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fakes.cluster import Cluster
from tests.coordinator.session.fakes.judge import FakeJudge
from tests.coordinator.session.histories import plan_of, scenario_of
from tests.coordinator.session.scenarios import state_after

D0, D1 = DeviceId("d0"), DeviceId("d1")
TEXTS = list(range(12))


@pytest.fixture(autouse=True)
def few_steps_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "ENOUGH_STEPS", 2)


def cluster_of(
    *paces: float, epochs: int = 3, move_seconds: float = 0.0, evaluation: tuple[int, ...] = (3,)
) -> Cluster:
    """Two trainers with two shards each, that take so many times what they measured."""
    scenario = scenario_of(
        plan_of((0, 1), (2, 3)),
        train=TEXTS,
        evaluation=evaluation,
        profiles={name: profile(name, layer=1e-5) for name in (D0, D1)},
    )
    options = dataclasses.replace(scenario.job.options, epochs=epochs)
    judge = FakeJudge(4, move_seconds)
    job = dataclasses.replace(scenario.job, options=options, judge=judge)
    cluster = dataclasses.replace(scenario, job=job).cluster()
    cluster._window = 10**6
    for name, pace in zip((D0, D1), paces, strict=True):
        cluster.devices[name].trainer.own_seconds_per_sample = pace * 1e-3  # it measured 1 ms
    return cluster


def finish(cluster: Cluster) -> None:
    """Plays to the end; the result is that of a run that nothing changes in."""
    cluster.run(random.Random(1))
    assert cluster.finished, (cluster.session.phase, cluster.failure)
    assert cluster.session.record.state == state_after(cluster.job, cluster.job.total_steps)


def happened(cluster: Cluster, event: str) -> list[dict[str, object]]:
    return [record.fields for record in cluster.events if record.event == event]


def shards(cluster: Cluster) -> dict[DeviceId, int]:
    return {owner.device: len(owner.shards) for owner in cluster.session.plan.owners}


def test_the_faster_trainer_gets_more_once_an_epoch_has_shown_it() -> None:
    cluster = cluster_of(1.0, 3.0)
    finish(cluster)
    assert shards(cluster) == {D0: 3, D1: 1}
    (change,) = happened(cluster, "owners_changed")
    assert change["shards"] == {D0: 3, D1: 1}
    assert [fields["epoch"] for fields in happened(cluster, "epoch_finished")] == [1, 2, 3]


def test_samples_are_moved_and_nothing_is_computed_again() -> None:
    cluster = cluster_of(1.0, 3.0)
    finish(cluster)
    computed = [text for device in cluster.devices.values() for text in device.computed]
    assert len(computed) == len(set(computed)), "each text once"
    judge = cluster.job.judge
    assert isinstance(judge, FakeJudge)
    assert {pair for moves in judge.moved for pair in moves} == {(D1, D0)}


def test_owners_stay_where_moving_costs_more_than_it_gains() -> None:
    cluster = cluster_of(1.0, 3.0, move_seconds=10.0)
    finish(cluster)
    assert shards(cluster) == {D0: 2, D1: 2}
    assert not happened(cluster, "owners_changed")


@pytest.mark.parametrize("pace", [1.0, 1.15])
def test_owners_stay_where_devices_are_about_as_they_were_taken_to_be(pace: float) -> None:
    cluster = cluster_of(1.2, 1.2 * pace)
    finish(cluster)
    assert not happened(cluster, "owners_changed")


def test_owners_do_not_flap() -> None:
    cluster = cluster_of(1.0, 3.0, epochs=8)
    finish(cluster)
    assert len(happened(cluster, "owners_changed")) == 1


def test_nothing_changes_after_the_last_epoch() -> None:
    cluster = cluster_of(1.0, 3.0, epochs=1)
    finish(cluster)
    assert not happened(cluster, "owners_changed")


def test_a_trainer_alone_hands_shards_to_others_if_it_turns_out_slow() -> None:
    cluster = cluster_of(1.0, 15.0)
    finish(cluster)
    assert shards(cluster) == {D0: 4}


def test_the_end_of_an_epoch_says_how_long_the_others_will_take() -> None:
    cluster = cluster_of(1.0, 1.0)
    finish(cluster)
    ends = happened(cluster, "epoch_finished")
    for done, fields in enumerate(ends, 1):
        mean = sum(float(str(each["seconds"])) for each in ends[:done]) / done
        assert fields["remaining_seconds"] == pytest.approx((3 - done) * mean)
    assert cluster.session.record.rest is not None


def test_finding_candidates_in_the_first_epoch_is_expected_of_no_other() -> None:
    state = cluster_of(1.0, 1.0).session.state
    trainer = TrainerProfile(seconds_per_sample=1.0, memory_bytes=0, seconds_per_new_sample=6.0)
    state.plan = plan_of((0, 1), (2, 3))
    state.profiles = {
        name: dataclasses.replace(profile(name), trainer=trainer) for name in (D0, D1)
    }
    factor = run_factors(state.profiles[D0])[1]
    expected = 2 * factor  # of an epoch; finding takes 6 s besides
    state.saved = dataclasses.replace(state.saved, step=state.job.steps_per_epoch)
    seconds = 1.5 * (expected + 6.0)
    state.record.epochs.append(EpochRecord(epoch=1, began=0.0, seconds=seconds, term=1))
    state.found_samples = len(TEXTS)
    assert predict_rest(state) == pytest.approx(2 * 1.5 * expected)


def test_what_a_group_exchanged_is_learnt_from_the_slowest() -> None:
    cluster = cluster_of(1.0, 3.0, epochs=1)
    finish(cluster)
    for name in (D0, D1):
        state = cluster.session.state
        found = state.experience.learn(state.profiles[name]).trainer
        assert found is not None
        # An epoch took 1 s, of which the slower one computed for 3 steps of 6 ms.
        assert found.exchange_in_run == pytest.approx(1.0 - 3 * 6e-3)


def test_a_trainer_cannot_compute_for_longer_than_its_steps_took() -> None:
    with pytest.raises(ValueError, match="own_seconds"):
        m.EpochDone(sums=m.EpochSums(epoch=1), seconds=1.0, own_seconds=1.5)


def test_who_comes_back_with_its_cache_has_nothing_to_move() -> None:
    cluster = cluster_of(1.0, 3.0)
    chance = random.Random(2)
    while not happened(cluster, "epoch_finished"):
        assert cluster.advance(chance)
    holdings = cluster.session.state.holdings
    before = holdings.expected(D1)
    assert before.any()
    holdings.lost(D1)
    assert (holdings.expected(D1) == before).all()
    assert not holdings.expected(DeviceId("nobody")).any()
