"""``pacplus evaluate``, ``pacplus predict`` and ``pacplus merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.contract.errors import UsageError

from . import options as o


def evaluate(
    run: o.Run,
    data: Annotated[Path, typer.Option(help="JSONL like the training data.")],
    bundle: o.BundleMoved = None,
    as_json: o.Json = False,
    emulate: o.Emulate = "",
    devices: o.Devices = "",
    listen: o.Listen = o.LISTEN,
) -> None:
    """Compute a run's metrics on data.

    Example: pacplus evaluate run --data test.jsonl
    """
    from coordinator.api import evaluate as compute
    from coordinator.show import metric

    found = compute(
        run,
        data,
        bundle=bundle,
        cluster=o.cluster(emulate, devices, listen),
        watcher=o.display(),
    )
    if as_json:
        o.print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name:14} {metric(value)}")


def predict(
    run: o.Run,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text; may be given several times.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="JSONL with texts.")] = None,
    bundle: o.BundleMoved = None,
    as_json: o.Json = False,
    emulate: o.Emulate = "",
    devices: o.Devices = "",
    listen: o.Listen = o.LISTEN,
) -> None:
    """Use a run's adapter on texts.

    Example: pacplus predict run --text "wake me at seven"
    """
    from coordinator.api import predict as compute
    from coordinator.show import show_predictions

    if bool(text) == bool(data):
        raise UsageError("give either --text or --data")
    found = compute(
        run,
        data if data is not None else tuple(text or ()),
        bundle=bundle,
        cluster=o.cluster(emulate, devices, listen),
        watcher=o.display(),
    )
    if as_json:
        from edge_runtime.contract.plain import to_plain

        o.print_json({"predictions": to_plain(found)})
    else:
        show_predictions(found)


def merge(
    run: o.Run,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file; must not exist.")],
    bundle: o.BundleMoved = None,
    as_json: o.Json = False,
) -> None:
    """Write backbone and adapter as one ONNX file, for any ONNX Runtime.

    Example: pacplus merge run -o assistant.onnx
    """
    from rich.console import Console

    from coordinator.merging import merge as write
    from coordinator.show import show_merged

    with Console(stderr=True).status("starting") as status:
        merged = write(
            run, output, bundle=bundle, progress=lambda step: status.update(f"{step} ...")
        )
    if as_json:
        files = {"path": str(merged.path), "data": str(merged.data) if merged.data else None}
        how = {"bytes": merged.bytes, "inputs": list(merged.inputs), "output": merged.output}
        o.print_json({**files, **how})
    else:
        show_merged(merged)
