"""Shows what would be learnt of data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from .console import counted, printable, say, table_of

if TYPE_CHECKING:
    from coordinator.api.describe_data import DataDescription

BAR = 40
SHOWN_LABELS = 20
SHOWN_CHARACTERS = 1500


def show_data(found: DataDescription, console: Console | None = None) -> None:
    """Prints form, labels, lengths as a histogram, oddities and the first samples."""
    console = console or Console()
    made = f", {counted(found.samples, 'sample')}" if found.samples not in (0, found.lines) else ""
    lines = counted(found.lines, "line")
    say(console, f"{found.name}: {lines}{made} for {found.task} ({found.form})")
    if found.labels:
        _show_labels(found, console)
    _show_lengths(found, console)
    if found.longest_place:
        say(console, f"longest line: {found.longest_place}, {found.longest} {found.unit}")
    if found.duplicates:
        say(console, f"lines that ask the same as an earlier one: {found.duplicates}")
    if found.truncated:
        say(console, f"longer than {found.limit} tokens, will be cut: {found.truncated}")
    for note in found.notes:
        say(console, note, style="yellow")
    for sample in found.rendered:
        label = f" -> {sample.label}" if sample.label else ""
        say(console, f"\n{sample.place}{label}", style="bold")
        text, room = Text(), SHOWN_CHARACTERS
        for piece in sample.pieces:
            shown = printable(piece.text)[: max(room, 0)]
            room -= len(piece.text)
            text.append(f"⟦{shown}⟧" if piece.learnt else shown, "green" if piece.learnt else "dim")
        text.append(" ..." if room < 0 else "")
        console.print(text, soft_wrap=True)
    if any(piece.learnt for sample in found.rendered for piece in sample.pieces):
        say(console, "\n⟦...⟧ is learnt, the rest is read")


def _show_labels(found: DataDescription, console: Console) -> None:
    table = table_of("labels", "label", "lines")
    most = sorted(found.labels.items(), key=lambda each: (-each[1], each[0]))
    for label, count in most[:SHOWN_LABELS]:
        table.add_row(Text(printable(repr(label))), str(count))
    console.print(table)
    if len(most) > SHOWN_LABELS:
        say(console, f"and {len(most) - SHOWN_LABELS} more labels")


def _show_lengths(found: DataDescription, console: Console) -> None:
    table = table_of(f"length in {found.unit}", "", "lines", "", left=0)
    total = sum(each.count for each in found.lengths)
    for each in found.lengths:
        low, high = each.least, each.greatest
        bar = Text("█" * math.ceil(BAR * each.count / total))
        table.add_row(f"{low}" if low == high else f"{low} to {high}", str(each.count), bar)
    table.columns[2].justify = "left"
    console.print(table)
