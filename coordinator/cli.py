"""``pacplus``: the command line on the laptop and on the workstation."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from edge_runtime import __version__
from edge_runtime.contract.errors import MissingExtraError, UsageError

try:
    import typer
except ImportError:
    sys.stderr.write(f"pacplus: {MissingExtraError('typer', 'coordinator')}\n")
    sys.exit(MissingExtraError.exit_code)

from .exits import CommandGroup, explained, resumable

app = typer.Typer(
    name="pacplus",
    cls=CommandGroup,
    help="Fine-tune a personal language model on the devices you already own, together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Emulate = Annotated[
    str,
    typer.Option(
        help="Emulated devices: NAME[:memory=400M,cpu=0.5,trainer=no],...", metavar="A,B,..."
    ),
]
Devices = Annotated[
    str, typer.Option(help="Paired devices: all, or ids with commas.", metavar="all|ID,ID")
]
Listen = Annotated[
    str, typer.Option(help="Where paired devices find this coordinator.", metavar="HOST:PORT")
]
Bundle = Annotated[Path, typer.Argument(help="Folder that `pacplus export` wrote.")]
Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
BundleMoved = Annotated[
    Path | None, typer.Option("--bundle", help="Where the bundle is now, if it has moved.")
]
LISTEN = "*:7700"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pacplus {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", help="Log everything to stderr.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    # Tokenising 10,000 lines takes a second; its threads would only take devices' cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )


@app.command()
def train(
    bundle: Bundle,
    data: Annotated[Path, typer.Option(help="JSONL with text, optionally text_pair, and label.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder of the run.")],
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="JSONL to evaluate on, before and after.")
    ] = None,
    task: Annotated[
        Literal["classification", "regression"], typer.Option(help="Kind of labels.")
    ] = "classification",
    emulate: Emulate = "",
    devices: Devices = "",
    listen: Listen = LISTEN,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Samples of a global batch.")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="by adapter")
    ] = None,
    adapter: Annotated[
        Literal["attention", "mlp"], typer.Option(help="Kind of the side blocks.")
    ] = "attention",
    adapter_layers: Annotated[
        str, typer.Option(help="Hidden states that are read: all, every:K, or a list.")
    ] = "all",
    reduction: Annotated[int, typer.Option(help="Backbone width / adapter width.")] = 8,
    cache_dtype: Annotated[
        Literal["fp32", "fp16", "int8"], typer.Option(help="How activations are stored.")
    ] = "fp16",
    cache_quota: Annotated[
        str, typer.Option(help="Limit of each device's cache, e.g. 2G.", metavar="SIZE")
    ] = "",
    seed: Annotated[int, typer.Option(help="Decides initial weights and order.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that stopped.")
    ] = False,
    text_field: Annotated[str, typer.Option(help="Name of the text field.")] = "text",
    text_pair_field: Annotated[str, typer.Option(help="Name of the second text.")] = "text_pair",
    label_field: Annotated[str, typer.Option(help="Name of the label field.")] = "label",
    as_json: Json = False,
) -> None:
    """Fine-tune an adapter on your data, on your devices.

    Example: pacplus train bundle --data train.jsonl --eval dev.jsonl -o run
    --emulate raspberry-pi-5,laptop --epochs 3
    """
    from .api import train as run_training
    from .data import FieldNames
    from .show import show_report

    with resumable(output):
        result = run_training(
            bundle,
            data,
            output=output,
            evaluation=evaluation,
            task=task,
            cluster=_cluster(emulate, devices, listen),
            adapter=_adapter(adapter, reduction, adapter_layers),
            options=_options(epochs, batch_size, learning_rate, seed),
            fields=FieldNames(text=text_field, text_pair=text_pair_field, label=label_field),
            cache_dtype=cache_dtype,
            cache_quota_bytes=_size(cache_quota),
            resume=resume,
            watcher=_watcher(),
        )
    if as_json:
        from edge_runtime.contract.plain import to_plain

        _print(to_plain(result.report))
    else:
        show_report(result.report, result.run)


@app.command()
def plan(
    bundle: Bundle,
    data: Annotated[Path, typer.Option(help="JSONL with text, optionally text_pair, and label.")],
    task: Annotated[
        Literal["classification", "regression"], typer.Option(help="Kind of labels.")
    ] = "classification",
    emulate: Emulate = "",
    devices: Devices = "",
    listen: Listen = LISTEN,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Samples of a global batch.")] = 16,
    cache_dtype: Annotated[
        Literal["fp32", "fp16", "int8"], typer.Option(help="How activations are stored.")
    ] = "fp16",
    as_json: Json = False,
) -> None:
    """Measure the devices and show the plan with its predictions; train nothing.

    Example: pacplus plan bundle --data train.jsonl --emulate jetson-nano,laptop
    """
    from .api import plan as make
    from .show import show_plan

    result = make(
        bundle,
        data,
        task=task,
        cluster=_cluster(emulate, devices, listen),
        options=_options(epochs, batch_size, None, 0),
        cache_dtype=cache_dtype,
        watcher=_watcher(),
    )
    if as_json:
        from edge_runtime.contract.plain import to_plain

        _print({**to_plain(result.plan), "dilation": result.dilation})
    else:
        show_plan(result.plan, result.manifest)


@app.command()
def evaluate(
    run: Run,
    data: Annotated[Path, typer.Option(help="JSONL like the training data.")],
    bundle: BundleMoved = None,
    emulate: Emulate = "",
    devices: Devices = "",
    listen: Listen = LISTEN,
    as_json: Json = False,
) -> None:
    """Compute a run's metrics on data.

    Example: pacplus evaluate run --data test.jsonl
    """
    from .api import evaluate as compute

    found = compute(
        run,
        data,
        bundle=bundle,
        cluster=_cluster(emulate, devices, listen),
        watcher=_watcher(),
    )
    if as_json:
        _print(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name:10} {value:.4f}")


@app.command()
def predict(
    run: Run,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text; may be given several times.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="JSONL with texts.")] = None,
    bundle: BundleMoved = None,
    emulate: Emulate = "",
    devices: Devices = "",
    listen: Listen = LISTEN,
    as_json: Json = False,
) -> None:
    """Use a run's adapter on texts.

    Example: pacplus predict run --text "wake me at seven"
    """
    from .api import predict as compute
    from .show import show_predictions

    if bool(text) == bool(data):
        raise UsageError("give either --text or --data")
    found = compute(
        run,
        data if data is not None else tuple(text or ()),
        bundle=bundle,
        cluster=_cluster(emulate, devices, listen),
        watcher=_watcher(),
    )
    if as_json:
        from edge_runtime.contract.plain import to_plain

        _print({"predictions": to_plain(found)})
    else:
        show_predictions(found)


@app.command()
def pair(
    listen: Listen = LISTEN,
    name: Annotated[str, typer.Option(help="Host that devices reach this machine by.")] = "",
    as_json: Json = False,
) -> None:
    """Pair one device: shows the command to type on it, and waits.

    Example: pacplus pair --listen 192.168.1.5:7700
    """
    from .pairing import pair_one

    device = pair_one(listen, name, announce=lambda line: typer.echo(line, err=True))
    if as_json:
        _print({"device": device})
    else:
        typer.echo(f"paired {device}")


@app.command()
def devices(
    remove: Annotated[str, typer.Option(help="No longer trust this device.", metavar="ID")] = "",
    as_json: Json = False,
) -> None:
    """List the paired devices.

    Example: pacplus devices --json
    """
    from .pairing import paired_devices, unpair

    if remove:
        unpair(remove)
    found = paired_devices()
    if as_json:
        _print({"devices": found})
    else:
        for device in found:
            typer.echo(f"{device['device']:24} key {device['key']}")
        if not found:
            typer.echo("no device is paired; run: pacplus pair")


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for bundle and runs.")
    ] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Fine-tune a small real model on three emulated devices of this machine.

    Example: pacplus demo
    """
    from rich.console import Console

    from .demo import run_demo

    result = run_demo(output, Console(stderr=as_json))
    if as_json:
        _print(result)


@functools.cache
def _add_export_commands() -> None:
    """`export` needs PyTorch and transformers, `inspect` does not; both live in export/."""
    from export.cli import export_command, inspect_command

    app.command("export")(export_command)
    app.command("inspect")(inspect_command)


def _cluster(emulate: str, devices: str, listen: str) -> Any:
    from devices.specification import parse_emulate

    from .hosting import Cluster

    return Cluster(
        emulate=parse_emulate(emulate) if emulate else (),
        devices=tuple(item.strip() for item in devices.split(",") if item.strip()),
        listen=listen,
    )


def _adapter(kind: Any, reduction: int, layers: str) -> Any:
    from .inputs import AdapterChoice

    if reduction < 1:
        raise UsageError("--reduction must be at least 1")
    return AdapterChoice(kind=kind, reduction=reduction, layers=layers)


def _options(epochs: int, batch_size: int, learning_rate: float | None, seed: int) -> Any:
    from edge_runtime.contract.adapter import TrainingOptions

    chosen = {} if learning_rate is None else {"learning_rate": learning_rate}
    if epochs < 1:
        raise UsageError("--epochs must be at least 1")
    try:
        return TrainingOptions(epochs=epochs, batch_size=batch_size, seed=seed, **chosen)
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 1)}") from None


def _size(text: str) -> int | None:
    from devices.specification import parse_bytes

    return parse_bytes(text, "--cache-quota") if text else None


def _watcher() -> Any:
    from .display import LiveDisplay

    return LiveDisplay()


def _print(value: Any) -> None:
    from .run_folder import finite

    typer.echo(json.dumps(finite(value), allow_nan=False))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process; see :mod:`.exits` for how it ends."""
    # A service manager that asks to stop gets the same tidy end as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with explained():
            _add_export_commands()
    except typer.Exit as failed:
        sys.exit(failed.exit_code)
    app(args=arguments, prog_name="pacplus")


if __name__ == "__main__":
    main()
