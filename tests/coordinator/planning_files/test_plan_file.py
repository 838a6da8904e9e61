import dataclasses
import json

import pytest

from coordinator.planner import evaluate
from coordinator.planning_files.plan_file import read_plan
from edge_runtime.contract.errors import BadInputError, InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.structure import to_plain
from tests.coordinator.planner.problems import MB, problem, profile

PLAN = Plan(
    stages=(
        Stage(
            first=0,
            last=3,
            devices=(
                StageDevice(device=DeviceId("a"), share=0.5),
                StageDevice(device=DeviceId("b"), share=0.5),
            ),
        ),
        Stage(first=3, last=7, devices=(StageDevice(device=DeviceId("c")),)),
    ),
    owners=(Owner(device=DeviceId("a"), shards=tuple(range(16))),),
    num_shards=16,
    micro_batch_size=8,
)
HOME = problem(profile("a"), profile("b", train=None), profile("c"))


@pytest.fixture
def given(tmp_path):
    """The plan in a file, with fields changed, and more beside them."""

    def given(plan=PLAN, **changes):
        path = tmp_path / "plan.json"
        path.write_text(json.dumps({**to_plain(plan), "dilation": 1.0, **changes}))
        return read_plan(path)

    return given


def test_a_plan_is_adopted_with_predictions_of_now(given):
    old = dataclasses.replace(PLAN, predicted=evaluate(problem(*HOME.profiles, samples=7), PLAN))
    adopted = given(old).adopt(HOME)
    assert adopted == dataclasses.replace(PLAN, predicted=evaluate(HOME, PLAN))
    assert adopted.predicted != old.predicted


def test_what_else_is_printed_with_a_plan_does_not_matter(given):
    beside = {"alternatives": [{"name": "x", "plan": None}], "predicted": "soon", "simulated": {}}
    assert given(**beside).plan == PLAN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size must be positive"),
        ({"micro_batch_size": "8"}, ".micro_batch_size: expected an integer, got a string"),
        ({"num_shards": 8}, "each of the 8 shards must be owned exactly once"),
        ({"stages": []}, "stages is empty"),
        ({"stages": [{"first": 0}]}, ".stages[0]: field 'last' is missing"),
        ({"owners": [{"device": "a", "shards": []}]}, ".owners[0]: owner 'a' has no shards"),
    ],
)
def test_a_file_without_a_plan_names_the_field(given, change, said):
    with pytest.raises(BadInputError) as caught:
        given(**change)
    assert said in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [("[1]", "expected an object"), ("{", "cannot be read")])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, said):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=said):
        read_plan(path)


@pytest.mark.parametrize(
    ("home", "said"),
    [
        (
            problem(profile("a"), profile("c")),
            "stages[0].devices: 'b' is not there; there are: a, c",
        ),
        (
            problem(profile("a"), profile("b"), profile("c", layer=None)),
            "stages[1].devices: c runs no backbone stages",
        ),
        (
            problem(profile("a", train=None), profile("b"), profile("c")),
            "owners[0].device: a cannot train",
        ),
        (dataclasses.replace(HOME, batch_size=8), "num_shards: is 16, but --batch-size is 8"),
        (
            dataclasses.replace(HOME, num_blocks=6, cached_layers=(5,)),
            "stages: cover 7 blocks, but the adapter reads 6",
        ),
    ],
)
def test_a_plan_for_something_else_names_the_field(given, home, said):
    with pytest.raises(BadInputError) as caught:
        given().adopt(home)
    assert said in str(caught.value)


def test_an_owner_who_is_not_there_is_named(given):
    alone = Stage(first=0, last=7, devices=(StageDevice(device=DeviceId("b")),))
    with pytest.raises(BadInputError, match=r"owners\[0\].device: 'a' is not there"):
        given(dataclasses.replace(PLAN, stages=(alone,))).adopt(problem(profile("b")))


def test_a_plan_that_does_not_fit_says_who_lacks_what(given):
    home = problem(profile("a", storage=MB), profile("b", memory=100 * MB), profile("c"))
    with pytest.raises(InfeasibleError) as caught:
        given().adopt(home)
    assert "b lacks" in str(caught.value)
    assert "MB of memory" in str(caught.value)
    assert "c lacks" not in str(caught.value)


def test_a_plan_whose_disks_are_small_is_adopted_and_charged_for(given):
    small = problem(profile("a", storage=MB), profile("b"), profile("c"))
    ample = problem(profile("a"), profile("b"), profile("c"))
    slow, fast = (given().adopt(each).predicted.epoch_seconds for each in (small, ample))
    assert slow > fast


def test_a_given_plan_is_for_the_devices_that_a_run_begins_with(given):
    decide = given().first()
    assert decide(HOME).stages == PLAN.stages
    left = problem(profile("a"), profile("c"))
    assert {*decide(left).devices} <= {"a", "c"}
    assert decide(HOME).stages == PLAN.stages


def test_a_given_plan_that_fits_nobody_is_not_replaced(given):
    with pytest.raises(BadInputError, match="is not there"):
        given().first()(problem(profile("a"), profile("c")))
