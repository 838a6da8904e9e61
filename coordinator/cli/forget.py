"""Runs ``pacplus forget``."""

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.contract.errors import StoppedError, UsageError

from . import options as o


def forget(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a run: its bundle is forgotten.")
    ] = None,
    everything: Annotated[
        bool, o.option(None, "Everything that the devices keep.", "--all")
    ] = False,
    bundle: o.BundleMoved = None,
    listen: o.Listen = o.LISTEN,
    wait: Annotated[
        float, o.option("Devices", "Seconds that paired devices may take to join.")
    ] = 10.0,
    as_json: o.Json = False,
) -> None:
    """Delete caches and weights on your devices: those of a run's bundle, or all.

    Other runs with the same bundle compute again what they need. Devices that are not online
    are remembered, and told when they next join; exit code 5 says that there are some.
    The run's folder and the bundle stay: delete them yourself.

    Example: pacplus forget run
    """
    from coordinator.api.forget import forget as run_forgetting
    from edge_runtime.contract.structure import to_plain

    if not 0 <= wait <= 86_400:
        raise UsageError("--wait is a number of seconds, at most 86400")
    found = run_forgetting(
        run,
        everything=everything,
        bundle=bundle,
        listen=listen,
        wait_seconds=wait,
        waiting_for=lambda names: typer.echo(f"waiting for {names} ...", err=True),
    )
    if as_json:
        o.print_json({"devices": [to_plain(device) for device in found]})
    else:
        for device in found:
            state = device.pending or "done"
            place = "here" if device.local else "paired"
            deleted = f"{device.bytes / 1e6:.1f} MB deleted"
            typer.echo(f"{device.device:24} {place:7} {deleted:>20}  {state}")
        if not found:
            typer.echo("no device keeps anything: none has ever taken part")
    _tell_pending([device.device for device in found if device.pending and not device.local])
    if stuck := [device for device in found if device.pending and device.local]:
        raise StoppedError(f"{stuck[0].pending}; then run this again")


def _tell_pending(devices: list[str]) -> None:
    if devices:
        raise StoppedError(
            f"not done yet: {', '.join(devices)}; remembered, and done when they next join a "
            "command; `pacplus devices` shows what is left"
        )
