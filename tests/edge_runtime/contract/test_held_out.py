"""The one rule by which adapters are chosen on held-out samples."""

import math

import pytest

from edge_runtime.contract.held_out import HeldOut


def ranked(*worth: HeldOut) -> list[int]:
    return sorted(range(len(worth)), key=lambda place: worth[place].rank)


def test_the_lowest_loss_is_the_best_where_there_are_no_classes():
    assert ranked(*(HeldOut(loss=loss) for loss in (0.3, 0.1, 0.2))) == [1, 2, 0]


def test_the_highest_accuracy_is_the_best_and_of_equal_ones_the_lowest_loss():
    worth = [(0.8, 0.3), (0.9, 0.5), (0.9, 0.4), (0.9, 0.4)]
    assert ranked(*(HeldOut(loss=loss, accuracy=right) for right, loss in worth)) == [2, 3, 1, 0]


@pytest.mark.parametrize("loss", [math.inf, math.nan, -math.inf])
def test_what_is_no_number_is_worse_than_any(loss):
    assert not HeldOut(loss=loss).finite
    assert ranked(HeldOut(loss=loss, accuracy=1.0), HeldOut(loss=9.0, accuracy=0.0)) == [1, 0]


def test_of_the_metrics_of_an_evaluation_accuracy_and_loss_count():
    assert HeldOut.of({"accuracy": 0.5, "f1": 0.9, "loss": 1.0}) == HeldOut(loss=1.0, accuracy=0.5)
    assert HeldOut.of({"loss": 1.0, "token_accuracy": 0.5}) == HeldOut(loss=1.0)
