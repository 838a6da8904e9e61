"""The options that commands share, and what becomes of their values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge_runtime.contract.errors import UsageError

if TYPE_CHECKING:
    from coordinator.api.adapter_config import AdapterChoice
    from coordinator.cluster.host import Cluster
    from coordinator.cluster.observer import Observer
    from edge_runtime.contract.adapter import AdapterKind, Initialization, TrainingOptions
    from edge_runtime.contract.generation import GenerationOptions

DEVICES = "Devices"
TRAINING = "Training"
ADAPTER = "Adapter"
CACHE = "Cache"
GENERATION = "Text of language models"
FIELDS = "Names of the data's fields"

LISTEN = "*:7700"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

Bundle = Annotated[Path, typer.Argument(help="Folder that `pacplus export` wrote.")]
Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
BundleMoved = Annotated[
    Path | None, typer.Option("--bundle", help="Where the bundle is now, if it has moved.")
]
TrainingData = Annotated[
    Path,
    typer.Option(help="JSONL with what the task needs: text and label, prompt and completion, ..."),
]
Task = Annotated[
    Literal["classification", "regression", "causal-lm", "seq2seq"] | None,
    typer.Option(help="What is learnt.", show_default="the bundle's"),
]

Emulate = Annotated[
    str,
    typer.Option(
        help="Emulated devices: NAME[:memory=400M,cpu=0.5,trainer=no],...",
        metavar="A,B,...",
        rich_help_panel=DEVICES,
    ),
]
Devices = Annotated[
    str,
    typer.Option(
        help="Paired devices: all, or ids with commas.",
        metavar="all|ID,ID",
        rich_help_panel=DEVICES,
    ),
]
Listen = Annotated[
    str,
    typer.Option(
        help="Where paired devices find this coordinator.",
        metavar="HOST:PORT",
        rich_help_panel=DEVICES,
    ),
]

Reprofile = Annotated[
    bool,
    typer.Option(
        "--reprofile",
        help="Measure devices and links again, whatever is known of them.",
        rich_help_panel=DEVICES,
    ),
]

Epochs = Annotated[int, typer.Option(help="Passes over the data.", rich_help_panel=TRAINING)]
BatchSize = Annotated[
    int, typer.Option(help="Samples of a global batch.", rich_help_panel=TRAINING)
]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Peak learning rate.", show_default="by adapter", rich_help_panel=TRAINING),
]
Seed = Annotated[
    int, typer.Option(help="Decides initial weights and order.", rich_help_panel=TRAINING)
]

MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        help="Most tokens to write for each prompt.",
        show_default="64",
        rich_help_panel=GENERATION,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Draw tokens at this temperature; 0 takes the most probable one.",
        show_default="0",
        rich_help_panel=GENERATION,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        help="Draw from the K most probable tokens only.",
        show_default="all",
        rich_help_panel=GENERATION,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Draw from the fewest tokens that reach this probability only.",
        show_default="1",
        rich_help_panel=GENERATION,
    ),
]
DrawSeed = Annotated[
    int | None,
    typer.Option(
        "--seed", help="Decides what is drawn.", show_default="0", rich_help_panel=GENERATION
    ),
]

Adapter = Annotated[
    Literal["attention", "mlp"],
    typer.Option(help="Kind of the side blocks.", rich_help_panel=ADAPTER),
]
AdapterLayers = Annotated[
    str,
    typer.Option(
        help="Hidden states that are read: all, every:K, or a list; always a stack's last.",
        rich_help_panel=ADAPTER,
    ),
]
AdapterHeads = Annotated[
    int, typer.Option(help="Attention heads of a side block.", rich_help_panel=ADAPTER)
]
AdapterInit = Annotated[
    Literal["random", "pruned"],
    typer.Option(
        help="First weights: random, or the backbone's own, pruned at export.",
        rich_help_panel=ADAPTER,
    ),
]
Reduction = Annotated[
    int, typer.Option(help="Backbone width / adapter width.", rich_help_panel=ADAPTER)
]

Dtype = Annotated[
    Literal["fp32", "fp16", "int8"],
    typer.Option(help="How activations are stored.", rich_help_panel=CACHE),
]
CacheQuota = Annotated[
    str,
    typer.Option(
        help="Limit of each device's cache, e.g. 2G.", metavar="SIZE", rich_help_panel=CACHE
    ),
]


def field(help_text: str) -> Any:
    """An option that names a field."""
    return typer.Option(help=help_text, metavar="NAME", rich_help_panel=FIELDS)


TextField = Annotated[str, field("The text.")]
TextPairField = Annotated[str, field("The second text of a pair.")]
LabelField = Annotated[str, field("The label, or the value of a regression.")]
PromptField = Annotated[str, field("What is to be completed.")]
CompletionField = Annotated[str, field("How it is completed.")]
MessagesField = Annotated[str, field("The messages of a chat.")]
SourceField = Annotated[str, field("What an encoder-decoder reads.")]
TargetField = Annotated[str, field("What it writes.")]


def cluster(emulate: str, devices: str, listen: str, reprofile: bool = False) -> Cluster:
    """The devices that were chosen."""
    from coordinator.cluster.host import Cluster
    from devices.specification import parse_emulate

    return Cluster(
        emulate=parse_emulate(emulate) if emulate else (),
        devices=tuple(item.strip() for item in devices.split(",") if item.strip()),
        listen=listen,
        reprofile=reprofile,
    )


def adapter_choice(
    kind: AdapterKind, reduction: int, layers: str, heads: int, initialization: Initialization
) -> AdapterChoice:
    """The adapter that was chosen.

    Raises:
        UsageError: a number is too small.
    """
    from coordinator.api.adapter_config import AdapterChoice

    for name, value in (("--reduction", reduction), ("--adapter-heads", heads)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1")
    return AdapterChoice(
        kind=kind,
        reduction=reduction,
        layers=layers,
        num_heads=heads,
        initialization=initialization,
    )


def training_options(
    epochs: int, batch_size: int, learning_rate: float | None, seed: int
) -> TrainingOptions:
    """How to train.

    Raises:
        UsageError: a value is out of range.
    """
    from edge_runtime.contract.adapter import TrainingOptions

    chosen = {} if learning_rate is None else {"learning_rate": learning_rate}
    if epochs < 1:
        raise UsageError("--epochs must be at least 1")
    try:
        return TrainingOptions(epochs=epochs, batch_size=batch_size, seed=seed, **chosen)
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 1)}") from None


def generation_options(**given: int | float | None) -> GenerationOptions | None:
    """How to write text; None where nothing of it is given.

    Raises:
        UsageError: a value is out of range.
    """
    from edge_runtime.contract.generation import GenerationOptions

    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not chosen:
        return None
    try:
        return GenerationOptions(**chosen)
    except ValueError as error:
        name, _, said = str(error).partition(" ")
        raise UsageError(f"--{name.replace('_', '-')} {said}") from None


def quota_bytes(text: str) -> int | None:
    """Bytes of ``--cache-quota``; None where it is not given."""
    from devices.specification import parse_bytes

    return parse_bytes(text, "--cache-quota") if text else None


def display() -> Observer:
    """Progress on stderr."""
    from coordinator.render.live_progress import LiveDisplay

    return LiveDisplay()


def print_json(value: Mapping[str, Any]) -> None:
    """One object on stdout."""
    from coordinator.runs.run_folder import finite

    typer.echo(json.dumps(finite(value), allow_nan=False))
