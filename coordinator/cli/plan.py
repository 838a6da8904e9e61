"""Runs ``pacplus plan``."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.contract.errors import BadInputError, UsageError

from . import options as o
from .field_options import names_fields

if TYPE_CHECKING:
    from coordinator.api.plan import PlanResult
    from coordinator.data import FieldNames


@names_fields
def plan(
    bundle: o.Bundle,
    data: o.TrainingData,
    task: o.Task = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also play the plan, event by event.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the schedule as a Gantt chart.", metavar="FILE.svg"),
    ] = None,
    as_json: o.Json = False,
    emulate: o.Emulate = "",
    devices: o.Devices = "",
    profiles: o.Profiles = None,
    listen: o.Listen = o.LISTEN,
    reprofile: o.Reprofile = False,
    measure: o.Measure = False,
    max_length: o.MaxLength = "",
    epochs: o.Epochs = 3,
    batch_size: o.BatchSize = o.AUTO,
    loss: o.Loss = "candidates",
    cache_dtype: o.Dtype = "auto",
    *,
    fields: "Callable[[], FieldNames]",
) -> None:
    """Measure the devices and show the plan with its predictions; train nothing.

    Example: pacplus plan bundle --data train.jsonl --emulate jetson-nano,laptop
    """
    from coordinator.api.plan import plan as make
    from coordinator.render.plan import show_plan
    from export.output import check_file

    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot: {plot} must end in .svg")
    if plot is not None and not plot.parent.is_dir():
        raise UsageError(f"--plot: {plot.parent} is no folder")
    if plot is not None:
        check_file(plot)
    result = make(
        bundle,
        data,
        task=task,
        cluster=o.cluster(emulate, devices, listen, reprofile, thorough=measure),
        profiles=profiles,
        options=o.training_options(epochs, batch_size, None, 0, loss),
        auto_batch_size=batch_size == o.AUTO,
        fields=fields(),
        cache_dtype=cache_dtype,
        max_length=o.max_length(max_length),
        simulated=simulate or plot is not None,
        observer=o.display(),
    )
    if plot is not None:
        _draw(result, plot)
    if as_json:
        o.print_json(plan_json(result))
    else:
        show_plan(result)


def plan_json(result: "PlanResult") -> dict[str, Any]:
    """Prepares the plan for JSON, with its alternatives and how it was simulated."""
    from edge_runtime.contract.structure import to_plain

    printed: dict[str, Any] = {
        **to_plain(result.plan),
        "dilation": result.dilation,
        "uncertainty": result.uncertainty,
        "alternatives": [
            {"name": each.name, "plan": each.plan and to_plain(each.plan)}
            for each in result.alternatives
        ],
    }
    if result.simulated is not None:
        printed["simulated"] = to_plain(dataclasses.replace(result.simulated, intervals=()))
        del printed["simulated"]["intervals"]
    return printed


def _draw(result: "PlanResult", path: Path) -> None:
    from coordinator.render.gantt import gantt_svg

    assert result.simulated is not None, "--plot simulates"
    try:
        path.write_text(gantt_svg(result.simulated, result.plan), encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"--plot: {path}: cannot be written: {error.strerror}") from None
