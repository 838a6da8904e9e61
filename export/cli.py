"""``pacplus export`` and ``pacplus inspect``; only the former needs torch.

``pacplus --help`` reads this module, so what takes long to import is imported by the
commands.
"""

from __future__ import annotations

import json as json_text
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge_runtime.contract.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from edge_runtime.contract.manifest import Manifest

    from .partition.stages import Bundle

Task = Literal["classification", "regression", "causal-lm", "seq2seq"]
Quantization = Literal["none", "int8", "int4"]


def _adapter_option(text: str, **options: Any) -> Any:
    return typer.Option(help=text, rich_help_panel="Initial adapter", **options)


def export_command(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a GGUF file or a hub id.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The bundle's folder; new or empty.")
    ],
    task: Annotated[Task, typer.Option(help="What to fine-tune for.")] = "classification",
    quantize: Annotated[Quantization, typer.Option(help="Form of the weights.")] = "none",
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Longest sample in tokens. Default: what the model allows."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting or weight that nothing uses and that you know not to matter; repeat."
        ),
    ] = None,
    adapter_init: Annotated[
        Literal["random", "pruned"],
        _adapter_option(
            "First weights of adapters: none are written, or the backbone's layers, pruned."
        ),
    ] = "random",
    adapter_reduction: Annotated[
        int, _adapter_option("Of the pruned adapter: what train has as --reduction.", min=1)
    ] = 8,
    adapter_heads: Annotated[int, _adapter_option("Of the pruned adapter, likewise.", min=1)] = 1,
    calibration: Annotated[
        Path | None,
        _adapter_option("Text like the task's, one sample a line, to decide what is pruned."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn a checkpoint into a bundle, and check it against PyTorch.

    Example: pacplus export ./all-MiniLM-L6-v2 -o minilm.bundle --quantize int8
    Example: pacplus export SmolLM2-135M-Instruct.gguf -o smollm2.bundle --task causal-lm
    """
    from rich.console import Console

    try:
        from .bundle import export_model
        from .pruning.initial_adapter import PrunedAdapter, read_calibration
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "a package", "export") from None
    pruned = None
    if adapter_init == "pruned":
        texts = read_calibration(calibration) if calibration else ()
        pruned = PrunedAdapter(
            reduction=adapter_reduction, num_heads=adapter_heads, calibration=texts
        )
    elif calibration is not None:
        raise UsageError("--calibration serves --adapter-init pruned only")
    console = Console(stderr=True)
    with console.status("starting") as status:
        bundle = export_model(
            model,
            output,
            task=task,
            quantize=quantize,
            max_length=max_length,
            pruned=pruned,
            ignore=ignore or (),
            progress=lambda step: status.update(f"{step} ..."),
        )
    _show(bundle, json)


def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="A folder that pacplus export wrote.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a bundle holds, after checking every file.

    Example: pacplus inspect minilm.bundle
    """
    from .partition.stages import open_bundle

    _show(open_bundle(bundle), json)


def summary(manifest: Manifest) -> dict[str, Any]:
    """Selects what ``--json`` prints of a manifest: blocks, sizes, digests and ``parity``."""
    from edge_runtime.contract.structure import to_plain

    plain = ("model_id", "architecture", "task", "quantization", "hidden_size", "max_length")
    block = ("name", "kind", "stream", "weight_bytes", "flops_per_token")
    return {
        **{name: getattr(manifest, name) for name in plain},
        "blocks": [
            {**{name: getattr(each, name) for name in block}, "weights": list(each.weights)}
            for each in manifest.blocks
        ],
        "shared": {path: manifest.file(path).bytes for path in shared_files(manifest)},
        "head_bytes": manifest.file(manifest.head.path).bytes if manifest.head else 0,
        "eos_token_ids": list(manifest.eos_token_ids),
        "notes": list(manifest.notes),
        "bytes": sum(file.bytes for file in manifest.files),
        "files": len(manifest.files),
        "backbone_digest": manifest.backbone_digest,
        "digest": manifest.digest,
        "parity": to_plain(manifest.parity),
    }


def shared_files(manifest: Manifest) -> dict[str, int]:
    """Weight files of more than one block, and how many blocks need each."""
    uses = Counter(path for block in manifest.blocks for path in block.weights)
    return {path: count for path, count in uses.items() if count > 1}


def _show(bundle: Bundle, as_json: bool) -> None:
    manifest = bundle.manifest
    fields = summary(manifest)
    if as_json:
        typer.echo(json_text.dumps({"bundle": str(bundle.path), **fields}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    model = f"{manifest.architecture}, {manifest.task}, {manifest.quantization}"
    table = Table("block", "stream", title=f"{manifest.model_id} ({model})")
    table.add_column("weights MB", justify="right")
    table.add_column("MFLOP per token", justify="right")
    for block in manifest.blocks:
        figures = (block.weight_bytes, block.flops_per_token)
        table.add_row(block.name, block.stream, *(f"{figure / 1e6:.2f}" for figure in figures))
    console.print(table)
    for path, count in shared_files(manifest).items():
        console.print(
            f"{path}: {fields['shared'][path] / 1e6:.2f} MB, shared by {count} blocks and "
            "counted in each"
        )
    if manifest.head is not None:
        console.print(f"head: {fields['head_bytes'] / 1e6:.2f} MB, {manifest.head.vocab_size} ids")
    if manifest.eos_token_ids:
        from .chat.stop_tokens import names_of

        stops = names_of(bundle.path / "tokenizer", manifest.eos_token_ids)
        console.print(f"a text ends at: {', '.join(stops)}", markup=False)
    for note in manifest.notes:
        console.print(note, markup=False)
    parity = manifest.parity
    console.print(
        f"{bundle.path}: {fields['files']} files, {fields['bytes'] / 1e6:.1f} MB, "
        f"up to {fields['max_length']} tokens, digest {fields['digest'][:12]}"
    )
    console.print(
        f"parity with PyTorch: worst {parity.worst:.3g} of {parity.limit:.3g} allowed "
        f"(relative RMS per token after layer normalization, {parity.tokens} tokens)"
    )
