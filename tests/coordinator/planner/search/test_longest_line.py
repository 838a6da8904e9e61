"""A line that no device can hold is named, and what is advised helps."""

import dataclasses
import re

import pytest

from coordinator.planner import Problem
from coordinator.planner.preflight import check_memory
from coordinator.planner.problem.problem import Tokens
from coordinator.planner.search.feasibility import is_feasible
from coordinator.planner.search.longest_line import shortened
from coordinator.planner.search.search import make_plan
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Hello
from tests.coordinator.planner.problems import MB, problem, profile

A = DeviceId("a")


def one_long_line(memory: int = 700 * MB, **changes: object) -> Problem:
    known = {
        "tokens": {"encoder": Tokens(mean=420.0, max=6502, usual=44)},
        "longest_line": "train.jsonl, line 16",
        "trains": True,
    }
    return problem(profile("a", memory=memory), samples=16, **{**known, **changes})


def hello(**changes: int) -> Hello:
    return Hello(
        software="1",
        roles=("backbone", "trainer"),
        data_address="tcp://a:1",
        process_id=1,
        **{"memory_bytes": 700 * MB, "base_memory_bytes": 50 * MB, **changes},
    )


def test_the_line_its_length_and_both_options_are_named() -> None:
    with pytest.raises(InfeasibleError) as caught:
        make_plan(one_long_line())
    said = str(caught.value)
    assert said.startswith("train.jsonl, line 16: its 6502 tokens take too much memory")
    assert "--max-length auto (44 tokens)" in said
    fits = int(re.search(r"--max-length (\d+)", said)[1])
    assert is_feasible(shortened(one_long_line(), fits))
    assert not is_feasible(shortened(one_long_line(), fits + 1))


def test_an_outlier_that_can_be_held_makes_no_other_micro_batch_smaller() -> None:
    ample = make_plan(one_long_line(memory=8000 * MB))
    assert ample.micro_batch_size > 1
    alone = problem(profile("a", memory=8000 * MB), samples=16)
    assert ample.micro_batch_size == make_plan(alone).micro_batch_size


def test_auto_is_not_advised_where_it_does_not_help() -> None:
    case = one_long_line(tokens={"encoder": Tokens(mean=6000.0, max=6502, usual=6400)})
    with pytest.raises(InfeasibleError, match=r"--max-length \d+ \(about the most that fits\), or"):
        make_plan(case)


def test_where_nothing_is_trained_the_options_of_training_are_not_advised() -> None:
    with pytest.raises(InfeasibleError, match=r"shorten it to \d+ tokens, leave it out"):
        make_plan(one_long_line(trains=False))


def test_a_model_that_is_too_large_for_any_line_is_not_blamed_on_one() -> None:
    with pytest.raises(InfeasibleError, match=r"lacks .* of memory"):
        make_plan(one_long_line(memory=150 * MB))


def test_devices_are_asked_before_they_are_measured() -> None:
    case = dataclasses.replace(one_long_line(), profiles=())
    with pytest.raises(InfeasibleError, match=r"train\.jsonl, line 16"):
        check_memory(case, {A: hello()})
    check_memory(case, {A: hello(memory_bytes=8000 * MB)})
    check_memory(case, {A: hello(), DeviceId("b"): hello(memory_bytes=8000 * MB)})
    check_memory(case, {A: hello(memory_bytes=0)})  # one that does not say is measured
