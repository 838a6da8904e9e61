import math

import pytest

from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import Heartbeat, Relief


def test_a_condition_and_an_unknown_one_survive_the_wire() -> None:
    told = Heartbeat(
        battery=0.5, charging=False, celsius=61.5, resident_bytes=1 << 20, available_bytes=0
    )
    assert decode(encode(told)) == told
    assert decode(encode(Heartbeat())) == Heartbeat()


@pytest.mark.parametrize(
    "wrong",
    [
        {"battery": 1.2},
        {"battery": math.nan},
        {"celsius": math.inf},
        {"celsius": math.nan},
        {"available_bytes": -1},
        {"resident_bytes": 1 << 63},
    ],
)
def test_conditions_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"cannot be|not within|not be negative"):
        Heartbeat(**wrong)


def test_a_relief_is_one_printable_line_or_taken_back() -> None:
    assert Relief().reason == ""
    for wrong in ("two\nlines", "\x1b[2J", "x" * 201):
        reason = Relief(reason=wrong).reason
        assert reason.isprintable()
        assert 0 < len(reason) <= 200
