"""What the report of a tuning says of how to train the best setting alone."""

import pytest

from coordinator.api.tune import Tuning
from coordinator.protocol.record import SessionRecord
from coordinator.tuning.design import draw_settings
from coordinator.tuning.race import Race, Reached, stops
from edge_runtime.contract.adapter import TrainingOptions
from tests.edge_runtime.parallel_adapters.samples import config


def raced(losses: dict[int, float]) -> SessionRecord:
    """Two settings, two epochs of four updates; ``losses`` of both by update."""
    race = Race(settings=2, stops=stops(2, 2, 4))
    while (stop := race.next) is not None:
        seconds = dict.fromkeys(race.left, 1.0)
        found = dict.fromkeys(race.left, losses[stop.step])
        reached = Reached(stop=stop, losses=found, seconds=seconds, shared_seconds=0.0)
        race = race.after(reached)
    return SessionRecord(race=race)


@pytest.mark.parametrize(("losses", "kept"), [({4: 2.0, 8: 1.0}, "last"), ({4: 1.0, 8: 2.0}, None)])
def test_where_the_last_epoch_was_the_best_it_is_to_be_kept_alone_whatever_its_accuracy(
    losses: dict[int, float], kept: str | None
) -> None:
    tuning = Tuning(draw_settings(config("attention"), TrainingOptions(epochs=2), 2))
    report = tuning.report(raced(losses))
    assert report is not None
    assert report.repeat.get("--keep") == kept
    assert report.repeat["--patience"] == "0"
