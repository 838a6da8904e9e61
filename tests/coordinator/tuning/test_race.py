"""Which settings go on, and which adapter is kept."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.best_epoch import best_epoch
from coordinator.tuning.race import Race, Reached, Stop, stops, survivors
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.held_out import HeldOut


def run(race: Race, losses, accuracies=lambda number, step: None) -> Race:
    """Runs to the end; ``losses`` and ``accuracies`` give a setting's at a step."""
    while (stop := race.next) is not None:
        found = {
            number: HeldOut(loss=losses(number, stop.step), accuracy=accuracies(number, stop.step))
            for number in race.left
        }
        seconds = dict.fromkeys(found, 1.0)
        race = race.after(Reached(stop=stop, worth=found, seconds=seconds, shared_seconds=0.0))
    return race


def of(losses: dict[int, float]) -> dict[int, HeldOut]:
    return {number: HeldOut(loss=loss) for number, loss in losses.items()}


def work(race: Race) -> float:
    """Updates of all settings together, over those of one training."""
    done, before = 0, 0
    for each in race.reached:
        done += len(each.worth) * (each.stop.step - before)
        before = each.stop.step
    return done / before


def test_eight_settings_are_halved_after_an_eighth_and_a_quarter():
    found = stops(8, 3, 400)
    assert [(each.step, each.keeps) for each in found] == [
        *((150, 4), (300, 2), (400, 2), (800, 2), (1200, 2))
    ]
    assert [each.step for each in found if each.ends_epoch] == [400, 800, 1200]


def test_eight_settings_cost_three_trainings():
    race = run(Race(settings=8, stops=stops(8, 3, 400)), lambda number, _: float(number))
    assert work(race) == 3.0


@given(
    settings=st.integers(2, 64),
    epochs=st.integers(1, 5),
    steps=st.integers(1, 300),
    seed=st.randoms(use_true_random=False),
)
def test_the_one_asked_for_trains_to_the_end_and_the_best_is_no_worse(
    settings, epochs, steps, seed
):
    drawn: dict[tuple[int, int], float] = {}

    def losses(number, step):
        return drawn.setdefault((number, step), seed.random())

    race = run(Race(settings=settings, stops=stops(settings, epochs, steps)), losses)
    assert race.step == epochs * steps
    assert 0 in race.left
    assert len(race.left) == 2
    assert drawn[race.best] <= min(drawn[0, epoch * steps] for epoch in range(1, epochs + 1))
    assert work(race) <= max(3.5, math.log2(settings) / 2 + 1.5) or steps * epochs < 2 * settings


def test_what_diverges_is_dropped_first_even_the_one_asked_for():
    assert survivors(of({0: math.inf, 1: 0.5, 2: math.inf, 3: 0.4}), 2) == (1, 3)
    assert survivors(of({0: math.inf, 1: 0.5, 2: math.inf}), 2) == (1,)


def test_the_one_asked_for_takes_the_place_of_the_weakest():
    assert survivors(of({0: 0.9, 1: 0.5, 2: 0.4, 3: 0.3}), 2) == (0, 3)


def test_nothing_is_left_if_all_diverge():
    with pytest.raises(UnresumableError, match="--learning-rate"):
        survivors(of({0: math.inf, 1: math.inf}), 2)


def test_an_adapter_of_an_earlier_epoch_is_kept_if_it_is_better():
    race = run(Race(settings=2, stops=stops(2, 2, 10)), lambda number, step: number + step / 100)
    assert race.best == (0, 10)


def test_only_the_next_stop_is_believed():
    race = Race(settings=2, stops=stops(2, 1, 10))
    wrong = Stop(step=5, keeps=2, ends_epoch=False)
    seconds = {0: 1.0, 1: 1.0}
    with pytest.raises(ValueError, match="next stop"):
        race.after(Reached(stop=wrong, worth=of(seconds), seconds=seconds, shared_seconds=0.0))


def test_classifiers_too_go_on_by_loss_which_is_less_coarse():
    worth = {
        number: HeldOut(loss=loss, accuracy=accuracy)
        for number, (accuracy, loss) in enumerate([(0.5, 0.1), (0.7, 0.4), (0.8, 0.6), (0.7, 0.3)])
    }
    assert survivors(worth, 3) == (0, 1, 3)


def test_the_adapter_of_a_classifier_is_the_most_accurate_one():
    race = Race(settings=2, stops=stops(2, 3, 10))
    race = run(race, lambda number, step: number + 1 / step, lambda number, step: number / 2)
    assert race.best == (1, 30), "its loss is higher than that of setting 0"
    assert (race.best_of(0), race.best_of(1)) == (30, 30)


def test_a_tuning_keeps_of_one_setting_the_epoch_that_a_training_alone_keeps():
    worth = {1: (0.8, 0.3), 2: (0.9, 0.5), 3: (0.9, 0.4), 4: (0.9, 0.4), 5: (0.7, 0.1)}
    alone = {
        epoch: {"accuracy": accuracy, "loss": loss} for epoch, (accuracy, loss) in worth.items()
    }
    race = run(
        Race(settings=1, stops=stops(1, 5, 10)),
        lambda _, step: worth[step // 10][1],
        lambda _, step: worth[step // 10][0],
    )
    assert race.best == (0, best_epoch(alone) * 10)


def test_of_a_setting_that_reached_no_epochs_end_the_last_evaluation_counts():
    race = run(Race(settings=8, stops=stops(8, 1, 80)), lambda number, _: float(number))
    assert race.best_of(7) == 10
    assert race.best_of(3) == 20
