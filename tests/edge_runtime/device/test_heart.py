"""What a device tells of itself while it works."""

import pytest

from edge_runtime.contract.messages import Heartbeat, Message, Relief
from edge_runtime.device import heart
from edge_runtime.device.care import Care, Condition, Limits
from edge_runtime.device.condition import ConditionWatch
from edge_runtime.device.heart import CONDITION_SECONDS, Heart


class Sensors:
    condition = Condition(battery=0.9)

    def __call__(self) -> Condition:
        return self.condition


def watch(sensors: Sensors, min_battery: float = 0.2) -> ConditionWatch:
    return ConditionWatch(sensors, Care(Limits(min_battery=min_battery), 0.0), 1.0)


def test_heartbeats_say_the_condition_and_memory_that_is_read_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    monkeypatch.setattr(heart, "resident_bytes", lambda: len(read))
    monkeypatch.setattr(heart, "available_memory_bytes", lambda: read.append(1) or 7)
    sent, sensors = list[Message](), Sensors()
    beating = Heart(sent.append, watch(sensors))
    for now in (100, 101, 102, 103, 104, 104 + CONDITION_SECONDS):
        beating.beat(now, joined=True)
    assert sent[0] == Heartbeat(battery=0.9, resident_bytes=0, available_bytes=7)
    assert (len(sent), len(read)) == (3, 2)


def test_sensors_beyond_what_can_be_sent_end_at_its_border() -> None:
    sensors = Sensors()
    sensors.condition = Condition(battery=1.5, celsius=9e9)
    sent: list[Message] = []
    beating = Heart(sent.append, watch(sensors))
    beating.beat(1.0, joined=True)
    beating.beat(9.0, joined=True)
    assert (sent[0].battery, sent[0].celsius) == (1.0, 300.0)


def test_relief_is_asked_for_once_and_taken_back_once() -> None:
    sent, sensors = list[Message](), Sensors()
    beating = Heart(sent.append, watch(sensors))
    beating.period_seconds = 1e9
    for at, charge in enumerate([0.9, 0.1, 0.1, 0.22, 0.5, 0.5, 0.1]):
        sensors.condition = Condition(battery=charge)
        beating.beat(float(2 * at), joined=True)
    assert [bool(message.reason) for message in sent] == [True, False, True]
    assert all(isinstance(message, Relief) for message in sent)


def test_a_device_that_worsens_before_it_is_admitted_asks_right_afterwards() -> None:
    sent, sensors = list[Message](), Sensors()
    sensors.condition = Condition(battery=0.1)
    beating = Heart(sent.append, watch(sensors))
    beating.beat(1.0, joined=False)
    assert not sent
    beating.beat(1.1, joined=True)
    assert [type(message) for message in sent] == [Relief]


def test_relief_is_asked_for_again_when_a_device_was_let_in_anew() -> None:
    sent, sensors = list[Message](), Sensors()
    sensors.condition = Condition(battery=0.1)
    beating = Heart(sent.append, watch(sensors))
    for at in range(3):
        beating.welcomed(60.0)
        beating.beat(1.0 + at, joined=True)
    assert [type(message) for message in sent] == [Relief] * 3
