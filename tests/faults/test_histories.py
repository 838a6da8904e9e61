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


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 5000, 500))
def test_five_thousand_histories_keep_every_invariant(first):
    for seed in range(first, first + 500):
        play(draw_history(seed))
