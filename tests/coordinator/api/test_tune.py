"""What the report of a tuning says of how to train the best setting alone."""

import pytest

from coordinator.api.tune import Tuning
from coordinator.protocol.record import SessionRecord
from coordinator.tuning.design import draw_settings
from coordinator.tuning.race import Race, Reached, stops
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.held_out import HeldOut
from tests.edge_runtime.parallel_adapters.samples import config


def raced(losses: dict[int, float]) -> SessionRecord:
    """Two settings, two epochs of four updates; ``losses`` of both by update."""
    race = Race(settings=2, stops=stops(2, 2, 4))
    while (stop := race.next) is not None:
        seconds = dict.fromkeys(race.left, 1.0)
        found = {each: HeldOut(loss=losses[stop.step], accuracy=0.5) for each in race.left}
        reached = Reached(stop=stop, worth=found, seconds=seconds, shared_seconds=0.0)
        race = race.after(reached)
    return SessionRecord(race=race)


@pytest.mark.parametrize(("losses", "step"), [({4: 2.0, 8: 1.0}, 8), ({4: 1.0, 8: 2.0}, 4)])
def test_alone_the_best_epoch_is_chosen_by_the_same_rule(
    losses: dict[int, float], step: int
) -> None:
    tuning = Tuning(draw_settings(config("attention"), TrainingOptions(epochs=2), 2))
    report = tuning.report(raced(losses))
    assert report is not None
    assert "--keep" not in report.repeat
    assert report.repeat["--patience"] == "0"
    assert (report.step, report.settings[0].best_step) == (step, step)
    assert report.settings[0].held_out_accuracy == (0.5, 0.5)
