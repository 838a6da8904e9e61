"""Results for people: the report of a run, predictions; on stdout by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from coordinator.runs.report import DeviceReport, Report

from .console import cell, say

if TYPE_CHECKING:
    from coordinator.api.merge import MergedModel
    from coordinator.api.predict import Prediction

MEGA = 1e6


def show_report(report: Report, run: Path, console: Console | None = None) -> None:
    """Before and after, where the time went, what each device did."""
    console = console or Console()
    console.print(_quality(report))
    console.print(_time(report))
    console.print(_devices(report))
    cache, fill = report.cache, report.fill
    say(
        console,
        f"cache: {cache.bytes / MEGA:.1f} MB in {cache.dtype}, "
        f"{cache.bytes_per_sample / 1000:.1f} kB a sample; "
        f"{fill.computed + fill.eval_computed} samples computed, "
        f"{fill.reused + fill.eval_reused} reused",
    )
    say(console, f"adapter: {report.parameters / 1000:.0f}k parameters, in {run / 'adapter'}")


def _quality(report: Report) -> Table:
    table = Table("", "before", "after", title="evaluation")
    before, after = report.eval.get("before", {}), report.eval.get("after", {})
    for name in after or before:
        table.add_row(
            cell(name), *(metric(part[name]) if name in part else "-" for part in (before, after))
        )
    for epoch in report.epochs:
        table.add_row(f"loss of epoch {epoch.epoch}", "", f"{epoch.train_loss:.4f}")
    return table


def metric(value: float) -> str:
    """A metric's value; the perplexity of a bad model can be of any size."""
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def _time(report: Report) -> Table:
    table = Table("phase", "seconds", "predicted", title="where the time went")
    predicted = report.plan.predicted
    epochs = sum(epoch.seconds for epoch in report.epochs)
    rest = max(0.0, report.total_seconds - report.fill.seconds - epochs)
    # The prediction is for filling everything: it does not speak of a cache that was full.
    whole = report.fill.reused == 0 and predicted is not None
    # It is for evaluation samples too, of which `eval_computed` were not among the others.
    share = report.fill.samples / max(1, report.fill.samples + report.fill.eval_computed)
    table.add_row(
        "fill with training samples (once)",
        f"{report.fill.seconds:.1f}",
        f"{share * predicted.fill_seconds:.1f}" if predicted and whole else "-",
    )
    table.add_row(
        f"{len(report.epochs)} adapter epochs",
        f"{epochs:.1f}",
        f"{len(report.epochs) * predicted.epoch_seconds:.1f}" if predicted else "-",
    )
    table.add_row("start, profile, weights, evaluation", f"{rest:.1f}", "")
    table.add_row("total", f"{report.total_seconds:.1f}", "")
    return table


def _devices(report: Report) -> Table:
    columns = ("blocks", "shards", "peak memory", "network", "CPU")
    table = _table_of_devices("devices", "roles", *columns)
    for device in report.devices:
        table.add_row(cell(device.id), cell("\n".join(device.roles)), *_device_cells(device))
    return table


def _table_of_devices(title: str, left: str, *right: str) -> Table:
    """Narrow enough for 80 columns; names, which people type, are never cut off."""
    table = Table(title=title, box=None, collapse_padding=True, pad_edge=False)
    table.add_column("device", no_wrap=True)
    table.add_column(left)
    for column in right:
        table.add_column(column, justify="right")
    return table


def _device_cells(device: DeviceReport) -> tuple[str, ...]:
    blocks = f"{device.blocks[0]}..{device.blocks[1] - 1}" if device.blocks else "-"
    return (
        blocks,
        str(device.shards or "-"),
        f"{device.peak_rss_bytes / MEGA:.0f} MB",
        f"{device.sent_bytes / MEGA:.1f} MB out\n{device.received_bytes / MEGA:.1f} MB in",
        f"{sum(device.cpu_seconds.values()):.1f} s",
    )


def show_predictions(predictions: Sequence[Prediction], console: Console | None = None) -> None:
    """One line a text."""
    console = console or Console()
    for prediction in predictions:
        if prediction.text is not None:
            say(console, prediction.text)
        elif prediction.scores is None:
            say(console, f"{prediction.value:.4f}")
        else:
            score = max(prediction.scores.values())
            say(console, f"{prediction.label}  ({score:.3f})")


def show_merged(merged: MergedModel, console: Console | None = None) -> None:
    """Where the model is, and how to call it."""
    console = console or Console()
    beside = f", with its weights in {merged.data}" if merged.data else ""
    say(console, f"{merged.path}: {merged.bytes / MEGA:.1f} MB{beside}")
    say(console, f"{', '.join(merged.inputs)} -> {merged.output}")
