"""Shows the settings that ``--tune`` has compared."""

from __future__ import annotations

from rich.table import Table

from coordinator.runs.tuning_report import SettingReport, TuningReport
from edge_runtime.contract.held_out import HeldOut

from .console import cell, table_of


def tuning_table(tuning: TuningReport) -> Table:
    """Lists settings with what they came to at their best, the longest trained and best first.

    That is after so many updates of those that they were trained for.
    """
    classes = any(each.held_out_accuracy is not None for each in tuning.settings)
    columns = ["setting", "adapter", "rate", "decay", "best at", *(["accuracy"] if classes else [])]
    table = table_of(
        "settings side by side on held-out data, best first", *columns, "loss", "CPU", left=2
    )
    for each in sorted(tuning.settings, key=lambda each: _rank(tuning, each)):
        number, best = str(each.number) if each.number else "0 (asked)", _best(tuning, each)
        table.add_row(
            f"{number}{' *' if each.number == tuning.best else ''}",
            cell(f"{each.adapter} r={each.reduction}"),
            f"{each.learning_rate:.3g}",
            f"{each.weight_decay:.3g}",
            f"{each.best_step}/{tuning.steps[len(each.held_out_loss) - 1]}",
            *([] if best.accuracy is None else [f"{best.accuracy:.4f}"]),
            f"{best.loss:.4f}",
            f"{each.cpu_seconds:.1f} s",
        )
    return table


def repeated(tuning: TuningReport) -> str:
    """Says how to train the best setting alone."""
    given = " ".join(f"{name} {value}" for name, value in tuning.repeat.items())
    return f"* is the adapter, after {tuning.step} updates; alone: {given}"


def _best(tuning: TuningReport, each: SettingReport) -> HeldOut:
    return each.held_out(tuning.steps.index(each.best_step))


def _rank(tuning: TuningReport, each: SettingReport) -> tuple[bool, int, tuple[bool, float, float]]:
    return each.number != tuning.best, -len(each.held_out_loss), _best(tuning, each).rank
