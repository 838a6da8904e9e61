"""Ends commands: an error is one line and an exit code, an interruption says how to go on."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from edge_runtime.contract.errors import (
    MissingExtraError,
    PacplusError,
    StoppedError,
    StorageError,
)
from edge_runtime.contract.os_errors import describe_os_error

logger = logging.getLogger(__name__)

_EXTRA_OF = {
    **dict.fromkeys(("torch", "transformers", "onnxscript"), "export"),
    **dict.fromkeys(("zmq", "onnx", "onnx_ir", "onnxruntime", "tokenizers"), "coordinator"),
    **dict.fromkeys(("safetensors", "rich", "jinja2"), "coordinator"),
}


class CommandGroup(TyperGroup):
    """Ends commands as the errors that they raise demand.

    It stands inside Typer, which would turn an interruption into an exit code of its own.
    """

    def invoke(self, ctx: Any) -> Any:
        """Runs the chosen command; raises typer.Exit if it fails, with a line on stderr."""
        with explained():
            return super().invoke(ctx)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns the errors that pacplus raises on purpose into a line and ``typer.Exit``.

    So does what a disk or a folder refuses, wherever it does. Bugs keep their traceback.
    """
    try:
        yield
    except PacplusError as error:
        raise _exit(error) from None
    except KeyboardInterrupt:
        raise _exit(StoppedError("stopped; nothing was lost, run it again")) from None
    except OSError as error:
        if (said := describe_os_error(error)) is None:
            raise
        logger.debug("the system refused", exc_info=True)
        raise _exit(StorageError(said)) from None
    except ModuleNotFoundError as error:
        extra = missing_extra(error.name or "")
        if extra is None:
            raise
        raise _exit(extra) from None


def missing_extra(module: str) -> MissingExtraError | None:
    """Says what to install when ``module`` cannot be imported; None when no extra has it."""
    top = module.partition(".")[0]
    extra = _EXTRA_OF.get(top)
    return MissingExtraError(top, extra) if extra else None


def _exit(error: PacplusError) -> typer.Exit:
    # One line, whatever a message has taken over from a file or a library.
    line = " ".join(str(error).split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    sys.stderr.write(f"pacplus: {shown}\n")
    return typer.Exit(error.exit_code)


@contextlib.contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Says how to go on when training is interrupted, in a StoppedError."""
    try:
        yield
    except KeyboardInterrupt:
        if (run / "run.json").exists():
            raise StoppedError(
                f"stopped; to go on with {run}, run the same command again with --resume"
            ) from None
        raise StoppedError(f"stopped before {run} was begun; run the command again") from None
