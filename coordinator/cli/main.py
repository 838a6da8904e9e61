"""Runs ``pacplus``, the command line on the laptop and on the workstation."""

import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

from coordinator.render.log_limit import LogLimit
from edge_runtime import __version__
from edge_runtime.contract.errors import MissingExtraError

try:
    import typer
except ImportError:
    sys.stderr.write(f"pacplus: {MissingExtraError('typer', 'coordinator')}\n")
    sys.exit(MissingExtraError.exit_code)

from .data import data
from .devices import demo, devices, pair
from .exit_codes import CommandGroup, explained
from .forget import forget
from .plan import plan
from .train import train
from .use import evaluate, merge, predict

app = typer.Typer(
    name="pacplus",
    cls=CommandGroup,
    help="Fine-tune a personal language model on the devices you already own, together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    # Tokenizing 10,000 lines takes a second; its threads would only take devices' cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    shown = logging.StreamHandler()
    if not verbose:
        shown.addFilter(LogLimit())
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[shown],
    )


for _command in (train, plan, data, evaluate, predict, merge, pair, devices, forget, demo):
    app.command()(_command)


@functools.cache
def _add_export_commands() -> None:
    """`export` needs PyTorch and transformers, `inspect` does not; both live in export/."""
    from export.cli import export_command, inspect_command

    app.command("export")(export_command)
    app.command("inspect")(inspect_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process; see :mod:`.exit_codes` for how it ends.

    Raises:
        SystemExit: at the end, where ``arguments`` are given.
    """
    try:
        _run(arguments)
    except SystemExit as ended:
        if arguments is not None:
            raise
        _end(ended.code)


def _run(arguments: Sequence[str] | None) -> None:
    # A service manager that asks to stop gets the same tidy end as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with explained():
            _add_export_commands()
    except typer.Exit as failed:
        sys.exit(failed.exit_code)
    app(args=arguments, prog_name="pacplus")


def _end(code: object) -> None:
    """Ends the process as Python would, but does not take every module apart before.

    That takes a tenth of a second after a training, for nothing.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
