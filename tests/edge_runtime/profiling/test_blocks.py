import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.profiling.blocks import split

seconds = st.floats(1e-6, 10)


def test_two_sizes_tell_the_cost_of_a_run_from_that_of_a_token():
    assert split(0.001 + 10 * 2e-5, 0.001 + 160 * 2e-5, 10, 160) == pytest.approx((0.001, 2e-5))


def test_one_size_alone_says_nothing_of_runs():
    assert split(0.02, 0.02, 10, 10) == (0, 0.002)


@given(small=seconds, large=seconds, few=st.integers(1, 99), more=st.integers(1, 999))
def test_whatever_was_measured_costs_are_possible_and_the_large_run_is_met(small, large, few, more):
    per_run, per_token = split(small, large, few, few + more)
    assert per_run >= 0
    assert per_token > 0
    assert per_run + (few + more) * per_token == pytest.approx(large)


@given(token=seconds, part=st.floats(0, 0.99), few=st.integers(1, 99), more=st.integers(1, 999))
def test_the_small_run_is_met_too_where_its_tokens_cost_no_less(token, part, few, more):
    run = part * (few + more) * token  # no more than all tokens of the large run
    per_run, per_token = split(run + few * token, run + (few + more) * token, few, few + more)
    assert per_run + few * per_token == pytest.approx(run + few * token, rel=0.01)
