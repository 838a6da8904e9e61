"""The table of what was measured, in Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from .kinds import KINDS

COLUMNS = ("kind", "runs", "well", "detection", "recovery", "next group", "computed again")


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each kind: medians, and the largest in brackets."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind.name]
        if mine:
            well = sum(not row["wrong"] for row in mine)
            cells = [kind.name, str(len(mine)), str(well)]
            cells += [_seconds(mine, "detection"), _seconds(mine, "recovery")]
            cells += [_seconds(mine, "training")]
            cells += [_spread([row["again"] for row in mine if "again" in row], "")]
            lines.append("| " + " | ".join(cells) + " |")
    wrong = [row for row in rows if row["wrong"]]
    lines += [
        "",
        *(
            f"- run {r['number']}, {r['kind']}, {r['moment']}, {r['device']}: "
            f"{'; '.join(r['wrong'])}"
            for r in wrong
        ),
    ]
    return "\n".join(lines)


def _seconds(rows: list[dict[str, Any]], name: str) -> str:
    return _spread([row[name] for row in rows if row.get(name) is not None], " s")


def _spread(values: list[float], unit: str) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.3g}{unit} ({max(values):.3g})"
