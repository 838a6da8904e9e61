from types import SimpleNamespace

import pytest

from coordinator.protocol.actions import Record
from coordinator.protocol.record import DeviceRecord, EpochRecord, SessionRecord
from coordinator.render.live_progress import LiveDisplay
from edge_runtime.contract import messages as m
from edge_runtime.contract.messages import EpochSums, Heartbeat
from tests.coordinator.render.test_report import HOSTILE, NAMES, console, text_of


@pytest.mark.parametrize("reason", HOSTILE)
def test_reasons_are_shown_as_they_are(reason):
    seen = console()
    fields = {"device": "pi", "reason": reason}
    LiveDisplay(seen).event(Record(event="device_lost", fields=fields))
    assert text_of(seen) == f"pi was lost: {reason}\n"


def test_escape_sequences_do_not_reach_the_terminal():
    seen = console()
    fields = {"device": "pi", "reason": "\x1b[2J"}
    LiveDisplay(seen).event(Record(event="device_lost", fields=fields))
    assert "\x1b" not in text_of(seen)


@pytest.mark.parametrize(
    ("lines", "cut", "said"),
    [(1, 0, "1 line of data\n"), (2, 1, "2 lines of data, 1 of them cut\n")],
)
def test_the_lines_that_were_read_are_counted(lines, cut, said):
    seen = console()
    LiveDisplay(seen).prepared(lines, cut)
    assert text_of(seen).startswith(said)


def test_the_rate_of_an_epoch_is_counted_from_its_own_start():
    sums = EpochSums(epoch=2, steps=5, samples=50, count=400, loss_sum=600.0)
    record = SessionRecord(
        devices={NAMES[0]: DeviceRecord(roles=("trainer",))},
        epochs=[EpochRecord(epoch=1, began=100.0), EpochRecord(epoch=2, began=190.0, sums=sums)],
    )
    job = SimpleNamespace(
        tables={"train": range(100)}, options=SimpleNamespace(epochs=3), devices=NAMES[:1]
    )
    session = SimpleNamespace(phase="training", record=record, job=job)
    seen = console()
    seen.print(LiveDisplay(seen)._progress(session, 200.0))
    said = text_of(seen)
    assert "50 of 100 samples, 5 samples/s, loss 1.5000" in said
    assert "about 30 s left" in said.replace("\n", " "), "this epoch's rest and a whole one"


@pytest.mark.parametrize(
    ("phase", "here", "asked", "said"),
    [
        ("gathering", NAMES[:1], {}, f"waiting for {NAMES[1]} to join"),
        ("profiling", NAMES[:2], {NAMES[0]: (m.ProfileRequest,)}, f"{NAMES[0]}: measuring"),
        (
            "deploying",
            NAMES[:2],
            {NAMES[0]: (m.LoadStage,), NAMES[1]: (m.LoadStage,)},
            f"waiting for {NAMES[0]} and {NAMES[1]}: loading the stage",
        ),
    ],
)
def test_who_is_waited_for_is_said_and_for_what(phase, here, asked, said):
    session = SimpleNamespace(
        phase=phase,
        devices=frozenset(here),
        asked=asked,
        record=SessionRecord(),
        job=SimpleNamespace(devices=NAMES[:2]),
    )
    seen = console()
    seen.print(LiveDisplay(seen)._progress(session, 1.0))
    assert said in text_of(seen).replace("\n", " ")


@pytest.mark.parametrize(
    ("event", "fields", "said"),
    [
        (
            "fill_finished",
            {"computed": 3, "reused": 2, "seconds": 1.26},
            "fill: 3 samples computed, 2 reused from the cache, 1.3 s\n",
        ),
        (
            "epoch_finished",
            {"epoch": 2, "train_loss": 0.12345, "seconds": 4.0},
            "epoch 2: loss 0.1235, 4.0 s\n",
        ),
        (
            "epoch_evaluated",
            {"epoch": 2, "best": 1, "loss": 0.45678, "accuracy": 0.75},
            "epoch 2: held-out accuracy 0.7500, loss 0.4568, epoch 1 was better\n",
        ),
        (
            "settings_trained",
            {
                "step": 9,
                "losses": {0: 0.5, 3: 0.25},
                "accuracies": {0: 0.75, 3: 0.5},
                "best": 0,
                "left": [0, 3],
            },
            "update 9: setting 0 is the best of 2, held-out accuracy 0.7500, loss 0.5000; 2 go on",
        ),
        (
            "settings_trained",
            {
                "step": 9,
                "losses": {0: 0.5, 3: 0.25},
                "accuracies": {0: None, 3: None},
                "best": 3,
                "left": [0, 3],
            },
            "update 9: setting 3 is the best of 2, held-out loss 0.2500; 2 go on, by loss\n",
        ),
        ("generation_finished", {"tokens": 30, "seconds": 2.0}, "30 tokens in 2.0 s, 15.0"),
        ("notice", {"device": "pi", "text": "read again"}, "pi: read again\n"),
        ("device_off_pace", {"device": "pi", "factor": 0.5}, "pi is 2.0x faster than expected"),
        (
            "rebalanced",
            {"device": "pi", "factor": 2.0, "stage": 0, "shares": {"pi": 0.25, "nano": 0.75}},
            "pi is 2.0x slower than expected; stage 1 is shared anew: pi 25%, nano 75%\n",
        ),
        ("device_joined", {"device": "pi"}, ""),
        ("device_lost", {"device": "pi", "reason": "silent"}, "pi was lost: silent\n"),
        (
            "device_quarantined",
            {"device": "pi", "reason": "gradients of NaN"},
            "pi is left out from here on: gradients of NaN\n",
        ),
        (
            "device_failed",
            {"device": "pi", "reason": "no room"},
            "pi failed and is asked again: no",
        ),
        ("device_blamed", {"device": "pi", "reason": "NaN"}, "pi sent what is wrong: NaN\n"),
        ("devices_absent", {"devices": ["pi"]}, "going on without pi: did not join in time\n"),
        (
            "relayed",
            {"devices": ["nano", "pi"], "reason": "timed out"},
            "nano and pi cannot reach each other, the coordinator forwards: timed out\n",
        ),
        (
            "relief",
            {"device": "pi", "reason": "battery at 12%"},
            "pi asks for its work to be taken away: battery at 12%\n",
        ),
        ("relief", {"device": "pi", "reason": ""}, "pi can work again\n"),
        (
            "waiting",
            {"devices": ["pi-2"], "reason": "no device is left"},
            "waiting for pi-2: no device is left\n",
        ),
        ("waiting", {"devices": [], "reason": "too small"}, "waiting for devices: too small\n"),
        (
            "went_on",
            {"term": 2, "seconds": 3.21, "computed_again": 40},
            "going on after 3.2 s, 40 samples computed again\n",
        ),
        (
            "went_on",
            {"term": 2, "seconds": 3.21, "computed_again": 0},
            "going on after 3.2 s\n",
        ),
        ("term_began", {"term": 2, "reason": "pi was lost", "device": "pi"}, ""),
    ],
)
def test_events_that_should_stay_on_the_screen_are_a_line_each(event, fields, said):
    seen = console()
    LiveDisplay(seen).event(Record(event=event, fields=fields))
    assert text_of(seen).startswith(said)
    assert text_of(seen).count("\n") == bool(said)


def test_the_condition_of_devices_that_say_it_is_shown():
    told = Heartbeat(battery=0.62, charging=True, celsius=48.4, resident_bytes=310_000_000)
    record = SessionRecord(devices={NAMES[0]: DeviceRecord(roles=("trainer",), condition=told)})
    session = SimpleNamespace(asked={}, phase="planning", record=record)
    seen = console()
    seen.print(LiveDisplay(seen)._draw(session, 200.0))
    assert "62 % charging, 48 °C, 310 MB" in " ".join(text_of(seen).split()), "broken over lines"
