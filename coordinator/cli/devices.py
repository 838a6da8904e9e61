"""Runs ``pacplus pair`` and ``pacplus devices``; and ``pacplus demo``, which needs no device."""

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.contract.errors import InfeasibleError, UsageError

from . import options as o


def pair(
    listen: o.Listen = o.LISTEN,
    name: Annotated[str, typer.Option(help="Host that devices reach this machine by.")] = "",
    as_json: o.Json = False,
) -> None:
    """Pair one device: shows the command to type on it, and waits.

    Example: pacplus pair --listen 192.168.1.5:7700
    """
    from coordinator.cluster.pairing import pair_one

    device = pair_one(listen, name, announce=lambda line: typer.echo(line, err=True))
    if as_json:
        o.print_json({"device": device})
    else:
        typer.echo(f"paired {device}")


def devices(
    remove: Annotated[str, o.option(None, "No longer trust this device.", metavar="ID")] = "",
    emulate: Annotated[
        str,
        o.option(
            None,
            "Instead, start these emulated devices and measure whether each is held to its "
            "processor share, memory and link; exit code 4 if not.",
            metavar="A,B,...",
        ),
    ] = "",
    as_json: o.Json = False,
) -> None:
    """List the paired devices, or check emulated ones.

    Example: pacplus devices --emulate jetson-nano,laptop:cpu=0.25,link=100M
    """
    from coordinator.cluster.pairing import paired_devices, unpair

    if emulate and remove:
        raise UsageError("--remove and --emulate exclude each other")
    if emulate:
        _check_emulated(emulate, as_json=as_json)
        return
    if remove:
        unpair(remove)
    found = paired_devices()
    if as_json:
        o.print_json({"devices": found})
    else:
        for device in found:
            forgets = ", ".join(digest[:12] for digest in device["to_forget"])
            later = f"  to forget when it next joins: {forgets}" if forgets else ""
            typer.echo(f"{device['device']:24} key {device['key']}{later}")
        if not found:
            typer.echo("no device is paired; run: pacplus pair")


def _check_emulated(emulate: str, *, as_json: bool) -> None:
    """Measures emulated devices; raises InfeasibleError if a limit is not kept."""
    from rich.console import Console

    from coordinator.cluster.emulation_check import check_emulation
    from coordinator.render.emulation import show_emulation
    from devices.specification import parse_emulate
    from edge_runtime.contract.structure import to_plain

    with Console(stderr=True).status("starting") as status:
        report = check_emulation(
            parse_emulate(emulate), lambda step: status.update(f"measuring {step} ...")
        )
    if as_json:
        o.print_json({**to_plain(report), "ok": report.ok})
    else:
        show_emulation(report)
    if not report.ok:
        off = [f"{check.device} {check.limit}" for check in report.checks if check.ok is False]
        raise InfeasibleError(
            f"not as promised: {', '.join(off)}; this machine is too busy, or may not enforce it"
        )


def demo(
    output: Annotated[
        Path,
        o.option(None, "Folder for bundle and runs.", "--output", "-o"),
    ] = Path("demo"),
    kill: Annotated[
        bool,
        o.option(None, "Kill a device in the middle: the others finish the run.", "--kill"),
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Fine-tune a small real model on three emulated devices of this machine.

    Example: pacplus demo --kill
    """
    from rich.console import Console

    from .demo import run_demo

    result = run_demo(output, Console(stderr=as_json), kill=kill)
    if as_json:
        o.print_json(result)
