"""Shows results: the report of a run, predictions, a merged model; on stdout by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from coordinator.runs.report import Report

from .console import cell, counted, say, table_of
from .tuning import repeated, tuning_table

if TYPE_CHECKING:
    from coordinator.api.merge import MergedModel
    from coordinator.api.use.predict import Prediction

MEGA = 1e6
SHOWN_RECOVERIES = 10


def show_report(report: Report, run: Path, console: Console | None = None) -> None:
    """Prints metrics before and after, where the time went, and each device's part."""
    console = console or Console()
    if report.tuning is not None:
        console.print(tuning_table(report.tuning))
        say(console, repeated(report.tuning))
    console.print(_quality(report))
    console.print(_time(report))
    console.print(_devices(report))
    if report.recoveries:
        console.print(_recoveries(report))
    for device in report.devices:
        for text, count in device.notices.items():
            often = f" ({count} times)" if count > 1 else ""
            say(console, f"{device.id}: {text}{often}", style="yellow")
    cache, fill = report.cache, report.fill
    say(
        console,
        f"cache of this model: {cache.bytes / MEGA:.1f} MB in {cache.dtype}, "
        f"{cache.bytes_per_sample / 1000:.1f} kB a sample; "
        f"{counted(fill.computed + fill.eval_computed, 'sample')} computed, "
        f"{fill.reused + fill.eval_reused} reused",
    )
    say(console, _which(report))
    say(console, f"adapter: {report.parameters / 1000:.0f}k parameters, in {run / 'adapter'}")


def _which(report: Report) -> str:
    """Says which epoch's adapter is kept, and why there are no more epochs."""
    last = report.epochs[-1].epoch if report.epochs else 0
    text = f"kept: epoch {report.kept_epoch} of {last}"
    if report.kept_epoch < last:
        text += ", the best on held-out data"
    if report.stopped_early:
        text += f"; stopped, since none was better for {report.patience} epochs"
    return text


def _quality(report: Report) -> Table:
    table = Table("", "before", "after", title="evaluation")
    before, after = report.eval.get("before", {}), report.eval.get("after", {})
    for name in after or before:
        table.add_row(
            cell(name), *(metric(part[name]) if name in part else "-" for part in (before, after))
        )
    for epoch in report.epochs:
        table.add_row(f"loss of epoch {epoch.epoch}", "", f"{epoch.train_loss:.4f}")
        if "loss" in epoch.eval:
            table.add_row("  held-out", "", metric(epoch.eval["loss"]))
    return table


def metric(value: float) -> str:
    """Formats a metric of any size: perplexities may be huge, squared small values tiny."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e6 or not value else f"{value:.4g}"


def _time(report: Report) -> Table:
    table = Table("phase", "seconds", "predicted", title="where the time went")
    fill, predicted, count = report.fill, report.plan.predicted, len(report.epochs)
    epochs = sum(epoch.seconds for epoch in report.epochs)
    rest = max(0.0, report.total_seconds - fill.seconds - epochs)
    predicted_fill = predicted_epochs = "-"
    if predicted:
        predicted_epochs = f"{count * predicted.epoch_seconds:.1f}"
    # The prediction is for filling everything: it does not speak of a cache that was full.
    # It is for evaluation samples too, of which `eval_computed` were not among the others.
    if predicted and not fill.reused:
        share = fill.samples / max(1, fill.samples + fill.eval_computed)
        predicted_fill = f"{share * predicted.fill_seconds:.1f}"
    table.add_row("fill with training samples (once)", f"{fill.seconds:.1f}", predicted_fill)
    table.add_row(counted(count, "adapter epoch"), f"{epochs:.1f}", predicted_epochs)
    table.add_row("start, profile, weights, evaluation", f"{rest:.1f}", "")
    table.add_row("total", f"{report.total_seconds:.1f}", "")
    return table


def _devices(report: Report) -> Table:
    columns = ("device", "roles", "blocks", "shards", "peak memory", "network", "CPU")
    table = table_of("devices", *columns, left=2, devices=True)
    for device in report.devices:
        table.add_row(
            *(cell(device.id), cell("\n".join(device.roles))),
            f"{device.blocks[0]}..{device.blocks[1] - 1}" if device.blocks else "-",
            str(device.shards or "-"),
            f"{device.peak_rss_bytes / MEGA:.0f} MB",
            f"{device.sent_bytes / MEGA:.1f} MB out\n{device.received_bytes / MEGA:.1f} MB in",
            f"{sum(device.cpu_seconds.values()):.1f} s",
        )
    return table


def _recoveries(report: Report) -> Table:
    columns = ("interruption", "seconds", "computed again")
    table = table_of("where the run was interrupted and went on", *columns, left=1)
    for each in report.recoveries[:SHOWN_RECOVERIES]:
        table.add_row(cell(each.reason), f"{each.seconds:.1f}", str(each.computed_again))
    if (more := len(report.recoveries) - SHOWN_RECOVERIES) > 0:
        table.add_row(f"{more} more, see report.json", "", "")
    return table


def show_predictions(predictions: Sequence[Prediction], console: Console | None = None) -> None:
    """Prints one line a text."""
    console = console or Console()
    for prediction in predictions:
        if prediction.text is not None:
            say(console, prediction.text)
        elif prediction.scores is None:
            say(console, _value(prediction.value or 0.0))
        else:
            score = max(prediction.scores.values())
            say(console, f"{prediction.label}  ({score:.3f})")


def _value(value: float) -> str:
    """Formats a regression's value: four decimals, or four digits where these show nothing."""
    return f"{value:.4f}" if 0.1 <= abs(value) < 1e16 or not value else f"{value:.4g}"


def show_merged(merged: MergedModel, console: Console | None = None) -> None:
    """Prints where the model is, and how to call it."""
    console = console or Console()
    beside = f", with its weights in {merged.data}" if merged.data else ""
    say(console, f"{merged.path}: {merged.bytes / MEGA:.1f} MB{beside}")
    say(console, f"{', '.join(merged.inputs)} -> {merged.output}")
    if merged.eos_token_ids:
        stops = ", ".join(map(str, merged.eos_token_ids))
        say(console, f"a text ends at any of the token ids {stops} (eos_token_ids in its metadata)")
    for note in merged.notes:
        say(console, note, style="yellow")
