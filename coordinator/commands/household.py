"""``pacplus pair`` and ``pacplus devices``; and ``pacplus demo``, which needs no device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def pair(
    listen: o.Listen = o.LISTEN,
    name: Annotated[str, typer.Option(help="Host that devices reach this machine by.")] = "",
    as_json: o.Json = False,
) -> None:
    """Pair one device: shows the command to type on it, and waits.

    Example: pacplus pair --listen 192.168.1.5:7700
    """
    from coordinator.pairing import pair_one

    device = pair_one(listen, name, announce=lambda line: typer.echo(line, err=True))
    if as_json:
        o.print_json({"device": device})
    else:
        typer.echo(f"paired {device}")


def devices(
    remove: Annotated[str, typer.Option(help="No longer trust this device.", metavar="ID")] = "",
    as_json: o.Json = False,
) -> None:
    """List the paired devices.

    Example: pacplus devices --json
    """
    from coordinator.pairing import paired_devices, unpair

    if remove:
        unpair(remove)
    found = paired_devices()
    if as_json:
        o.print_json({"devices": found})
    else:
        for device in found:
            typer.echo(f"{device['device']:24} key {device['key']}")
        if not found:
            typer.echo("no device is paired; run: pacplus pair")


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for bundle and runs.")
    ] = Path("demo"),
    as_json: o.Json = False,
) -> None:
    """Fine-tune a small real model on three emulated devices of this machine.

    Example: pacplus demo
    """
    from rich.console import Console

    from coordinator.demo import run_demo

    result = run_demo(output, Console(stderr=as_json))
    if as_json:
        o.print_json(result)
