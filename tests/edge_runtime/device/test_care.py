"""When a device asks to be relieved, and when it takes that back."""

import math

import pytest

from edge_runtime.contract.messages import Relief
from edge_runtime.device.care import Care, Condition, Limits


def battery(charge: float, *, charging: bool | None = False) -> Condition:
    return Condition(battery=charge, charging=charging)


def changes(care: Care, conditions: list[Condition]) -> list[str]:
    """What the device would send, one condition a second."""
    return [care.reason for at, each in enumerate(conditions) if care.judge(each, float(at))]


def test_a_low_battery_is_told_once_and_again_after_recovery() -> None:
    care = Care(Limits(min_battery=0.2), settled_seconds=0)
    charges = [0.5, 0.19, 0.18, 0.21, 0.24, 0.26, 0.22, 0.19]
    told = changes(care, [battery(charge) for charge in charges])
    assert [bool(reason) for reason in told] == [True, False, True]
    assert told[0] == "its battery is at 19%; it works from 25% on, or on a charger " + (
        "(--min-battery 20%)"
    )


def test_a_hot_processor_must_cool_below_its_limit() -> None:
    care = Care(Limits(max_celsius=80), settled_seconds=0)
    told = changes(care, [Condition(celsius=each) for each in (79, 81, 78, 75.5, 75, 79, 81)])
    assert [bool(reason) for reason in told] == [True, False, True]
    assert told[0] == "it is at 81 °C; it works from 75 °C down (--max-temperature 80)"


def test_on_the_charger_the_battery_does_not_count() -> None:
    care = Care(Limits(), settled_seconds=0)
    assert not changes(care, [battery(0.05, charging=True)])
    assert len(changes(care, [battery(0.05), battery(0.05, charging=True)])) == 2


def test_a_recovery_counts_once_it_has_lasted() -> None:
    care = Care(Limits(max_celsius=80), settled_seconds=3)
    warm = [Condition(celsius=each) for each in (90, 60, 60, 90, 60, 60, 60)]
    assert len(changes(care, warm)) == 1
    assert care.judge(Condition(celsius=60), 7.0)
    assert not care.reason


def test_nothing_is_asked_for_where_nothing_is_known_or_limited() -> None:
    assert not changes(Care(Limits()), [Condition(), battery(0.2), Condition(celsius=200)])
    assert not changes(Care(Limits(min_battery=0)), [battery(0.0)])


def test_a_full_battery_is_enough_for_every_limit() -> None:
    care = Care(Limits(min_battery=1.0), settled_seconds=0)
    assert len(changes(care, [battery(0.99), battery(1.0)])) == 2


def test_every_reason_can_be_sent() -> None:
    for limits, condition in (
        (Limits(min_battery=1.0), battery(0.0)),
        (Limits(max_celsius=0.001), Condition(celsius=1e9)),
    ):
        care = Care(limits)
        assert care.judge(condition, 0.0)
        assert Relief(reason=care.reason).reason


def test_limits_that_cannot_be_are_refused() -> None:
    for wrong in ({"min_battery": 1.1}, {"min_battery": math.nan}, {"max_celsius": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            Limits(**wrong)
