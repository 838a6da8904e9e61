"""Shows how closely emulated devices keep to their limits."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.cluster.emulation_check import EmulationReport

from .console import cell, say

_NAMES = {
    "cpu": "processor",
    "memory": "memory",
    "up": "link, from it",
    "down": "link, to it",
    "latency": "latency, one way",
}
_VERDICTS = {True: Text("ok"), False: Text("off", style="red"), None: Text("not tried")}


def show_emulation(report: EmulationReport, console: Console | None = None) -> None:
    """Prints the wanted and measured figures of every limit."""
    console = console or Console()
    for warning in report.warnings:
        say(console, warning, style="yellow")
    if report.dilation > 1:
        say(
            console,
            f"together they need more than this machine can give: everything is "
            f"{report.dilation:.2f}x slower than on the real ones, and so are the figures below",
        )
    table = Table(box=None)
    for column in ("device", "limit"):
        table.add_column(column, no_wrap=True)
    for column in ("wanted", "measured"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for check in report.checks:
        verdict = Text(check.note) if check.note and check.ok is None else _VERDICTS[check.ok]
        figures = (_figure(check.unit, value) for value in (check.wanted, check.measured))
        table.add_row(cell(check.device), _NAMES[check.limit], *figures, verdict)
    console.print(table)


def _figure(unit: str, value: float | None) -> str:
    if value is None:
        return "-"
    match unit:
        case "bytes":
            return f"{value / 1e6:.0f} MB"
        case "bit/s":
            return f"{value / 1e6:.1f} Mbit/s"
        case "s":
            return f"{value * 1e3:.1f} ms"
        case _:
            return f"{value:.3f} cores"
