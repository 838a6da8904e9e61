import dataclasses
import json

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import DevicePrediction, Owner, Plan, Prediction, Stage, StageDevice
from edge_runtime.contract.structure import from_plain, to_plain

A, B, C = DeviceId("a"), DeviceId("b"), DeviceId("c")


def stage(first: int, last: int, *devices: DeviceId) -> Stage:
    share = 1 / len(devices)
    members = tuple(StageDevice(device=device, share=share) for device in devices)
    return Stage(first=first, last=last, devices=members)


PLAN = Plan(
    stages=(stage(0, 3, A), stage(3, 7, B, C)),
    owners=(Owner(device=A, shards=(0, 1, 2)), Owner(device=C, shards=(3,))),
    num_shards=4,
    micro_batch_size=16,
    predicted=Prediction(
        total_seconds=3.0,
        fill_seconds=1.0,
        epoch_seconds=1.0,
        devices={
            A: DevicePrediction(
                memory_bytes=1, storage_bytes=2, fill_seconds=0.5, epoch_seconds=0.25
            )
        },
    ),
)


def test_a_plan_survives_json() -> None:
    assert from_plain(Plan, json.loads(json.dumps(to_plain(PLAN)))) == PLAN


def test_a_plan_says_who_does_what() -> None:
    assert PLAN.devices == (A, B, C)
    assert PLAN.num_blocks == 7
    assert PLAN.stage_of(C) == PLAN.stages[1]
    assert PLAN.stage_of(DeviceId("d")) is None
    assert PLAN.shards_of(B) == ()
    assert PLAN.share_of(A) == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": (stage(0, 3, A), stage(4, 7, B))}, "starts at block 4, not at 3"),
        ({"stages": (stage(1, 3, A),)}, "starts at block 1, not at 0"),
        ({"stages": ()}, "stages is empty"),
        ({"stages": (stage(0, 3, A), stage(3, 7, A))}, "'a' is in a stage more than once"),
        ({"num_shards": 5}, "each of the 5 shards"),
        ({"owners": (Owner(device=A, shards=(0, 1, 2, 3, 3)),)}, "owned exactly once"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **change)


def test_shares_of_a_stage_sum_to_one() -> None:
    plain = to_plain(PLAN)
    plain["stages"][1]["devices"][0]["share"] = 0.4
    with pytest.raises(BadInputError, match=r"shares of stage \[3, 7\) do not sum to 1"):
        from_plain(Plan, plain, "plan.json")
