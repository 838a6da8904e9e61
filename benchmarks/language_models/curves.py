"""Curves of held-out loss against CPU-seconds, out of the rows of the results file."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from .results import Row

FIRST = ("start", "profile", "fill")
"""Phases of a device before the first update."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """After so many CPU-seconds, those of evaluating apart; a mean over seeds."""

    cpu_seconds: float
    loss: float
    epoch: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One way of training.

    Attributes:
        epoch_seconds: CPU-seconds of an epoch.
        seeds: how many there are of the last point.
    """

    name: str
    points: tuple[Point, ...]
    epoch_seconds: float
    seeds: int

    @property
    def base(self) -> float:
        """The loss before the first update."""
        return self.points[0].loss

    @property
    def best(self) -> Point:
        """The best of whole epochs."""
        whole = [point for point in self.points[1:] if point.epoch == int(point.epoch)]
        return min(whole or self.points, key=lambda point: point.loss)

    def at(self, cpu_seconds: float) -> float:
        """The best loss for a budget; the base loss where there is nothing to show for it."""
        within = [point.loss for point in self.points if point.cpu_seconds <= cpu_seconds]
        return min(within, default=self.base)


def side_curves(rows: Sequence[Row]) -> list[Curve]:
    """Curves of the side network, one for each setting, from runs of all seeds."""
    side = [row for row in rows if row["method"] == "side"]
    filled = next((row for row in side if row["all_computed"]), None)
    fill = 0.0 if filled is None else _seconds_before(filled)
    curves = []
    for name, group in _groups(side, ("loss", "adapter", "reduction", "rate")):
        # The first run over candidates finds them, where no other kind has.
        finds, first = group[0]["loss"] == "candidates", group[0]
        usual = (group[1:] if finds else group) or group
        epoch_seconds = statistics.median(_training(row) / row["epochs"] for row in usual)
        found = max(0.0, _training(first) - first["epochs"] * epoch_seconds) if finds else 0.0
        points = [Point(cpu_seconds=fill, loss=_mean(row["before"] for row in group), epoch=0)]
        for epoch in range(1, max(row["epochs"] for row in group) + 1):
            losses = _losses_after(group, epoch)
            if losses:
                seconds = fill + found + epoch * epoch_seconds
                points.append(Point(cpu_seconds=seconds, loss=_mean(losses), epoch=epoch))
        seeds = len({row["seed"] for row in group})
        curves.append(_curve(f"side network, {name}", points, epoch_seconds, seeds))
    return curves


def fewer_lines_curves(rows: Sequence[Row]) -> list[Curve]:
    """The side network on ever more lines, each run whole: what a smaller budget comes to."""
    fewer = [row for row in rows if row["method"] == "fewer"]
    curves = []
    for name, group in _groups(fewer, ("adapter", "reduction", "rate", "epochs")):
        points = [Point(cpu_seconds=0.0, loss=_mean(row["before"] for row in group), epoch=0)]
        sizes = sorted({row["lines"] for row in group})
        for lines in sizes:
            at = [row for row in group if row["lines"] == lines]
            seconds = _mean(_seconds_before(row) + _training(row) for row in at)
            loss = _mean(row["after"] for row in at)
            points.append(Point(cpu_seconds=seconds, loss=loss, epoch=0))
        seeds = len({row["seed"] for row in group})
        shown = ", ".join(str(lines) for lines in sizes)
        curves.append(_curve(f"side network, {shown} lines, {name}", points, 0.0, seeds))
    return curves


def lora_curves(rows: Sequence[Row]) -> list[Curve]:
    """Curves of LoRA, one for each learning rate, the best one first."""
    curves = []
    lora = [row for row in rows if row["method"] == "lora"]
    for name, group in _groups(lora, ("rate", "epochs")):
        points = []
        for step in sorted({row["step"] for row in group}):
            at = [row for row in group if row["step"] == step]
            seconds = _mean(row["cpu_seconds"] for row in at)
            loss = _mean(row["loss"] for row in at)
            points.append(Point(cpu_seconds=seconds, loss=loss, epoch=at[0]["epoch"]))
        last = points[-1]
        epoch_seconds = last.cpu_seconds / last.epoch if last.epoch else 0.0
        seeds = len({row["seed"] for row in group})
        curves.append(_curve(f"LoRA, {name}", points, epoch_seconds, seeds))
    return sorted(curves, key=lambda curve: curve.best.loss)


def _curve(name: str, points: list[Point], epoch_seconds: float, seeds: int) -> Curve:
    return Curve(name=name, points=tuple(points), epoch_seconds=epoch_seconds, seeds=seeds)


def _groups(rows: Iterable[Row], names: tuple[str, ...]) -> list[tuple[str, list[Row]]]:
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    words = {"reduction": "r = {}", "rate": "rate {:g}", "epochs": "epochs: {}"}
    return [
        (", ".join(words.get(n, "{}").format(v) for n, v in zip(names, key, strict=True)), group)
        for key, group in groups.items()
    ]


def _losses_after(group: Iterable[Row], epoch: int) -> list[float]:
    """Of each seed: from the run that evaluated its epochs, or from one that ended there."""
    found: dict[int, float] = {}
    for row in group:
        by_epoch = row.get("by_epoch") or []
        if epoch <= len(by_epoch):
            found[row["seed"]] = by_epoch[epoch - 1]
        elif row["epochs"] == epoch:
            found.setdefault(row["seed"], row["after"])
    return list(found.values())


def _seconds_before(row: Row) -> float:
    """CPU-seconds before the first update, and those of the process beside the device."""
    before = sum(row["cpu_seconds"].get(phase, 0.0) for phase in FIRST)
    return float(before + row["coordinator_cpu_seconds"])


def _training(row: Row) -> float:
    return float(row["cpu_seconds"]["train"])


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
