"""Runs ``pacplus data``."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def data(
    files: Annotated[list[str], typer.Argument(help=f"{o.FORMS}.", metavar="FILE...")],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle whose tokenizer makes the samples.")
    ] = None,
    task: o.Task = None,
    as_json: o.Json = False,
    text_field: o.TextField = "text",
    text_pair_field: o.TextPairField = "text_pair",
    label_field: o.LabelField = "label",
    prompt_field: o.PromptField = "prompt",
    completion_field: o.CompletionField = "completion",
    messages_field: o.MessagesField = "messages",
    source_field: o.SourceField = "source",
    target_field: o.TargetField = "target",
    ignore_field: o.IgnoreField = None,
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
        fields=o.field_names(
            ignore_field,
            text=text_field,
            text_pair=text_pair_field,
            label=label_field,
            prompt=prompt_field,
            completion=completion_field,
            messages=messages_field,
            source=source_field,
            target=target_field,
        ),
    )
    if as_json:
        o.print_json(to_plain(found))
    else:
        show_data(found)
