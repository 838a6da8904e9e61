"""Runs ``pacplus data``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .field_options import names_fields

if TYPE_CHECKING:
    from coordinator.data import FieldNames


@names_fields
def data(
    files: Annotated[list[str], typer.Argument(help=f"{o.FORMS}.", metavar="FILE...")],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle whose tokenizer makes the samples.")
    ] = None,
    task: o.Task = None,
    as_json: o.Json = False,
    *,
    fields: "Callable[[], FieldNames]",
) -> None:
    """Show what will be learnt of data: form, labels, lengths, oddities, samples.

    Example: pacplus data train.jsonl --bundle minilm.bundle
    """
    from coordinator.api.describe_data import describe_data
    from coordinator.render.data import show_data
    from edge_runtime.contract.structure import to_plain

    found = describe_data(
        files,
        bundle=bundle,
        task=task,
        fields=fields(),
    )
    if as_json:
        o.print_json(to_plain(found))
    else:
        show_data(found)
