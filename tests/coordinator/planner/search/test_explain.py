import dataclasses

import pytest

from coordinator.planner.search.feasibility import is_feasible
from coordinator.planner.search.search import make_plan
from edge_runtime.contract.errors import InfeasibleError
from tests.coordinator.planner.problems import MB, problem, profile


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ((), "no device is there; pair one"),
        ((profile("a", layer=None),), "none of a runs backbone stages"),
        ((profile("a", train=None), profile("b", train=None)), "none of a, b can train; install"),
    ],
)
def test_what_is_missing_is_said(profiles: tuple, message: str) -> None:
    with pytest.raises(InfeasibleError, match=message):
        make_plan(problem(*profiles))


def test_lacking_memory_is_named_exactly_and_suffices() -> None:
    case = problem(profile("a", memory=150 * MB), profile("b", memory=70 * MB, train=None))
    with pytest.raises(
        InfeasibleError, match=r"^no plan fits: a lacks (\d+\.\d) MB of memory .*--quantize int8"
    ) as caught:
        make_plan(case)
    lack = float(str(caught.value).split(" lacks ")[1].split(" MB")[0])
    for more, feasible in ((lack + 0.1, True), (lack - 0.2, False)):
        memory = 150 * MB + round(more * MB)
        richer = (profile("a", memory=memory), case.profiles[1])
        assert is_feasible(dataclasses.replace(case, profiles=richer)) == feasible


def test_several_devices_that_lack_memory_are_all_named() -> None:
    poor = (
        profile("a", memory=52 * MB, train=None),
        profile("b", memory=60 * MB, layer=None),
    )
    with pytest.raises(InfeasibleError, match=r"more than one device lacks memory .*a may.*b may"):
        make_plan(problem(*poor))
