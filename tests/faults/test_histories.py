"""Generated histories of faults keep every invariant; see also ``python -m tests.faults``."""

import logging

import pytest

from tests.faults.history import draw_history, play


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_a_run_ends_as_if_nothing_had_been_whatever_happens_to_its_devices(first):
    for seed in range(first, first + 50):
        play(draw_history(seed))


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (309, "a stage that was loaded for a plan that had ended was taken for the one before"),
        (12010, "a device that joined while all were settled was never measured"),
    ],
)
def test_what_once_went_wrong_goes_well(seed, why):
    play(draw_history(seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 5000, 500))
def test_five_thousand_histories_keep_every_invariant(first):
    for seed in range(first, first + 500):
        play(draw_history(seed))
