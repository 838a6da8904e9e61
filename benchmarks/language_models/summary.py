"""Says what the rows of the results file come to: a table, and where LoRA is better."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from .curves import Curve, fewer_lines_curves, lora_curves, side_curves
from .drawing import draw
from .results import Row


def summary(rows: Sequence[Row]) -> tuple[str, str]:
    """Table and remarks in Markdown, and the drawing."""
    side, fewer, lora = side_curves(rows), fewer_lines_curves(rows), lora_curves(rows)
    heads = [row for row in rows if row["method"] == "head"]
    lines = [
        *_table(side, lora, heads),
        "",
        *_heads(heads),
        *_smaller(fewer),
        *_where_lora_is_better(side, fewer, lora),
    ]
    lines.append(f"Processor: {processor()}.")
    return "\n".join(lines) + "\n", draw([*side, *fewer], lora)


def processor() -> str:
    """Name of the processor, and what it has of the instructions that matter here."""
    try:
        fields = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = dict(line.split(":", 1) for line in fields if ":" in line)
    values = {name.strip(): value.strip() for name, value in found.items()}
    flags = values.get("flags", "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    return f"{values.get('model name', platform.processor())} ({', '.join(known)})"


def _table(side: list[Curve], lora: list[Curve], heads: list[Row]) -> Iterator[str]:
    yield (
        "| method | seeds | base loss | best held-out loss (epoch) | fall / LoRA's "
        "| CPU-s before the first update | CPU-s an epoch | LoRA's / its | head |"
    )
    yield "|" + "---|" * 9
    best = lora[0] if lora and lora[0].epoch_seconds else None
    for curve in (*side, *lora):
        fall = ratio = head = ""
        own = curve in side
        if best is not None and curve.best.epoch:
            # Both from LoRA's base, so that it is final losses that are compared.
            fall = f"{(best.base - curve.best.loss) / (best.base - best.best.loss):.2f}"
            ratio = f"{best.epoch_seconds / curve.epoch_seconds:.1f}" if own else ""
        if own and curve.epoch_seconds:
            head = _head_part(curve, heads)
        before = f"{curve.points[0].cpu_seconds:.1f}" if own else ""
        yield (
            f"| {curve.name} | {curve.seeds} | {curve.base:.3f} "
            f"| {curve.best.loss:.3f} ({curve.best.epoch:g}) | {fall} | {before} "
            f"| {curve.epoch_seconds:.1f} | {ratio} | {head} |"
        )


def _head_part(curve: Curve, heads: list[Row]) -> str:
    for row in heads:
        if not row["random"]:
            loss = "candidates" if "candidates" in curve.name else "exact"
            seconds = row[f"{loss}_cpu_seconds"]
            return f"{seconds:.1f} s, {100 * seconds / curve.epoch_seconds:.0f} %"
    return ""


def _heads(heads: list[Row]) -> Iterator[str]:
    for row in heads:
        kind = "a random head" if row["random"] else "the model's head"
        exact, candidates = row["exact_cpu_seconds"], row["candidates_cpu_seconds"]
        yield (
            f"An epoch's loss ({row['tokens']} counted tokens, {kind} of {row['vocabulary']} "
            f"tokens): {exact:.1f} CPU-s over the whole vocabulary, {candidates:.2f} over "
            f"candidates ({row['candidates_a_line']:.0f} a line), 1/{exact / candidates:.0f} of "
            f"it; found once in {row['finding_cpu_seconds']:.1f}, among {row['searched']}; likely "
            f"tokens counted once in {row['counting_cpu_seconds']:.1f}."
        )


def _smaller(fewer: list[Curve]) -> Iterator[str]:
    for curve in fewer:
        points = (f"{each.loss:.3f} for {each.cpu_seconds:.0f} CPU-s" for each in curve.points[1:])
        yield f"{curve.name}, start and fill included: {', '.join(points)}."


def _where_lora_is_better(
    side: list[Curve], fewer: list[Curve], lora: list[Curve]
) -> Iterator[str]:
    """Compares at each of LoRA's points; a budget may be spent on fewer lines."""
    if not lora or len(lora[0].points) < 2:
        return
    best = lora[0]
    for curve in side:

        def at(seconds: float, curve: Curve = curve) -> float:
            return min(each.at(seconds) for each in (curve, *fewer))

        within = [point for point in best.points[1:] if point.epoch <= 1]
        ahead = [point for point in within if point.loss < at(point.cpu_seconds)]
        budgets = ", ".join(
            f"{point.cpu_seconds:.0f} CPU-s ({point.loss:.3f} to {at(point.cpu_seconds):.3f})"
            for point in ahead
        )
        upto = f"up to {within[-1].cpu_seconds:.0f} CPU-s, what LoRA has done within an epoch"
        yield (
            f"{curve.name}: LoRA is ahead at {budgets}, of its {len(within)} points {upto}."
            if ahead
            else f"{curve.name}: ahead of LoRA at all of its {len(within)} points {upto}."
        )
        lower = [point for point in best.points if point.loss < curve.best.loss]
        if lower:
            first = lower[0]
            yield (
                f"{curve.name}: LoRA is better for who can wait: below {curve.best.loss:.3f} from "
                f"{first.cpu_seconds:.0f} CPU-s on, {best.best.loss:.3f} at its best."
            )
