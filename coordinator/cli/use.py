"""Runs ``pacplus evaluate``, ``pacplus predict`` and ``pacplus merge``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.contract.errors import UsageError

from . import options as o


def evaluate(
    run: o.Run,
    data: o.EvaluationData,
    bundle: o.BundleMoved = None,
    generate: o.Generate = False,
    max_new_tokens: o.MaxNewTokens = None,
    as_json: o.Json = False,
    emulate: o.Emulate = "",
    devices: o.Devices = "",
    listen: o.Listen = o.LISTEN,
    ignore_field: o.IgnoreField = None,
) -> None:
    """Compute a run's metrics on data.

    Example: pacplus evaluate run --data test.jsonl
    """
    from coordinator.api.use.evaluate import evaluate as compute
    from coordinator.render.report import metric
    from edge_runtime.contract.generation import GenerationOptions

    generation = o.generation_options(max_new_tokens=max_new_tokens)
    if generation is not None and not generate:
        raise UsageError("--max-new-tokens is for --generate")
    found = compute(
        run,
        data,
        bundle=bundle,
        ignored=ignore_field or (),
        generation=generation or (GenerationOptions() if generate else None),
        cluster=o.cluster(emulate, devices, listen) if emulate or devices else None,
        observer=o.display(),
    )
    if as_json:
        o.print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name:14} {metric(value)}")


def predict(
    run: o.Run,
    text: o.Texts = None,
    data: o.Inputs = None,
    bundle: o.BundleMoved = None,
    max_new_tokens: o.MaxNewTokens = None,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    seed: o.DrawSeed = None,
    as_json: o.Json = False,
    emulate: o.Emulate = "",
    devices: o.Devices = "",
    listen: o.Listen = o.LISTEN,
    ignore_field: o.IgnoreField = None,
) -> None:
    """Use a run's adapter on texts: labels, values, or what a language model writes.

    Example: pacplus predict run --text "wake me at seven"
    """
    from coordinator.api.use.predict import predict as compute
    from coordinator.data import read_data
    from coordinator.render.report import show_predictions
    from edge_runtime.contract.structure import to_plain

    if bool(text) == bool(data):
        raise UsageError("give either --text or --data")
    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    found = compute(
        run,
        read_data(data) if data else tuple(text or ()),
        bundle=bundle,
        ignored=ignore_field or (),
        generation=o.generation_options(max_new_tokens=max_new_tokens, **drawn),
        cluster=o.cluster(emulate, devices, listen) if emulate or devices else None,
        observer=o.display(),
    )
    if as_json:
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

    from coordinator.api.merge import merge as write
    from coordinator.render.report import show_merged

    with Console(stderr=True).status("starting") as status:
        merged = write(
            run, output, bundle=bundle, progress=lambda step: status.update(f"{step} ...")
        )
    if as_json:
        data = str(merged.data) if merged.data else None
        o.print_json({**dataclasses.asdict(merged), "path": str(merged.path), "data": data})
    else:
        show_merged(merged)
