"""Judges a run that had a fault: was it well, and what did the fault cost?"""

from __future__ import annotations

import json
from typing import Any

from .moment import Undisturbed
from .run import Event, Run

LOSS_WITHIN = 1e-3
ACCURACY_WITHIN = 0.005
NOTICED = {
    *(
        "cache_full",
        "device_lost",
        "device_failed",
        "device_blamed",
        "device_quarantined",
        "device_hangs",
    ),
    *("relayed", "relief", "term_began", "device_joined"),
}
PROGRESS = {"went_on", "steps_applied", "fill_finished"}
LEASED_BATCHES = 16
"""Micro-batches that may be in flight, at most, with three devices."""


def judge(run: Run, code: int, undisturbed: Undisturbed, again: int) -> list[str]:
    """Lists what was wrong; nothing, if all was well. ``again`` samples were computed twice."""
    if code:
        return [f"exit status {code}: {run.last_words()}"]
    events, wrong = run.events(), []
    report = json.loads((run.output / "report.json").read_text())
    losses = losses_of(events)
    expected = undisturbed.losses[-1]
    if len(losses) != len(undisturbed.losses):
        wrong.append(f"{len(losses)} epochs finished")
    elif abs(losses[-1] / expected - 1) > LOSS_WITHIN:
        wrong.append(f"loss {losses[-1]:.5f} instead of {expected:.5f}")
    accuracy = report["eval"]["after"]["accuracy"]
    if abs(accuracy - undisturbed.accuracy) > ACCURACY_WITHIN:
        wrong.append(f"accuracy {accuracy:.4f} instead of {undisturbed.accuracy:.4f}")
    wrong += _tiling(events, undisturbed)
    allowed = _may_be_computed_again(run, undisturbed)
    if again > allowed:
        wrong.append(f"{again} samples were computed again, more than {allowed}")
    return wrong + [f"left behind: {left}" for left in run.left_behind()]


def losses_of(events: list[Event]) -> list[float]:
    """Training loss of every epoch."""
    finished = {e["epoch"]: e["train_loss"] for e in events if e["event"] == "epoch_finished"}
    return [finished[epoch] for epoch in sorted(finished)]


def _tiling(events: list[Event], undisturbed: Undisturbed) -> list[str]:
    """Every step of every epoch was applied once, and every sample with it."""
    wrong, counted = [], applied(events)
    for epoch in range(1, len(undisturbed.losses) + 1):
        parts = sorted(
            (e["first"], e["last"], e["samples"]) for e in counted if e["epoch"] == epoch
        )
        ends = [0, *(last for _, last, _ in parts)]
        if [first for first, _, _ in parts] != ends[:-1]:
            wrong.append(f"epoch {epoch}: steps {[part[:2] for part in parts]} do not tile it")
        elif not parts or parts[-1][2] != undisturbed.samples:
            wrong.append(f"epoch {epoch}: {parts[-1][2] if parts else 0} samples were applied")
    return wrong


def applied(events: list[Event]) -> list[Event]:
    """The parts of epochs that count: a session that goes on does what came later once more."""
    parts = [event for event in events if event["event"] == "steps_applied"]
    steps = max((part["last"] for part in parts), default=0)
    counted: list[Event] = []
    for event in events:
        if event["event"] == "steps_applied":
            counted.append(event)
        elif event["event"] == "resumed":
            counted = [
                part
                for part in counted
                if (part["epoch"] - 1) * steps + part["last"] <= event["step"]
            ]
    return counted


def _may_be_computed_again(run: Run, undisturbed: Undisturbed) -> int:
    """Samples that one device alone can have held by the first plan, and those in flight."""
    plan = json.loads((run.plan or run.output / "plan.json").read_text())
    shards: int = max(len(owner["shards"]) for owner in plan["owners"])
    samples = undisturbed.samples + undisturbed.evaluated
    held: int = -(-samples * shards // plan["num_shards"])
    return held + LEASED_BATCHES * int(plan["micro_batch_size"])


def measure(run: Run, began: float) -> dict[str, Any]:
    """Takes down how long detection and recovery took, and what was computed again.

    ``recovery`` ends with the next finished work, a micro-batch or a step; ``training``, where a
    group had formed before, when the next one forms.
    """
    after = [event for event in run.events() if event["time"] >= began]
    noticed = next((e for e in after if e["event"] in NOTICED), None)
    names = PROGRESS if len(run.coordinators) > 1 else {"went_on"}
    went_on = next((e for e in after if e["event"] in names), None)
    trains = any(event["event"] == "group_formed" for event in run.events()[: -len(after)])
    group = next((e for e in after if trains and e["event"] == "group_formed"), None)
    again = sum(e["samples"] for e in after if e["event"] == "computing_again")
    if names is PROGRESS and any(
        e["event"] == "fill_finished" for e in run.events()[: -len(after)]
    ):
        again += sum(e["to_compute"] for e in after if e["event"] == "fill_started")
    return {
        "detection": round(noticed["time"] - began, 3) if noticed else None,
        "noticed": noticed["event"] if noticed else "",
        "recovery": round(went_on["time"] - began, 3) if went_on else None,
        "training": round(group["time"] - began, 3) if group else None,
        "again": again,
        "terms": sum(event["event"] == "term_began" for event in after),
    }
