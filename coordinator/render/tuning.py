"""Shows the settings that ``--tune`` has compared."""

from __future__ import annotations

from rich.table import Table

from coordinator.runs.tuning_report import SettingReport, TuningReport

from .console import cell, table_of


def tuning_table(tuning: TuningReport) -> Table:
    """Lists settings with their last held-out loss, the longest trained and best ones first."""
    columns = ("setting", "adapter", "rate", "decay", "updates", "held-out loss", "CPU")
    table = table_of("settings side by side, best first", *columns, left=2)
    for each in sorted(tuning.settings, key=lambda each: _rank(tuning, each)):
        number = str(each.number) if each.number else "0 (asked for)"
        table.add_row(
            f"{number}{' *' if each.number == tuning.best else ''}",
            cell(f"{each.adapter} r={each.reduction}"),
            f"{each.learning_rate:.3g}",
            f"{each.weight_decay:.3g}",
            str(tuning.steps[len(each.held_out_loss) - 1]),
            f"{each.held_out_loss[-1]:.4f}",
            f"{each.cpu_seconds:.1f} s",
        )
    return table


def repeated(tuning: TuningReport) -> str:
    """Says how to train the best setting alone."""
    given = " ".join(f"{name} {value}" for name, value in tuning.repeat.items())
    return f"* is the adapter, after {tuning.step} updates; alone: {given}"


def _rank(tuning: TuningReport, each: SettingReport) -> tuple[bool, int, float]:
    return each.number != tuning.best, -len(each.held_out_loss), each.held_out_loss[-1]
