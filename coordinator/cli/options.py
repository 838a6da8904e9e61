"""Declares the options of commands, and makes values of the API from them."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge_runtime.contract.errors import UsageError

if TYPE_CHECKING:
    from coordinator.cluster.host import Cluster
    from coordinator.cluster.observer import Observer
    from devices.this_machine import HeadStart
    from edge_runtime.contract.adapter import TrainingOptions
    from edge_runtime.contract.generation import GenerationOptions

LISTEN = "*:7700"
AUTO = "auto"


def option(panel: str | None, text: str, *names: str, **more: Any) -> Any:
    """Makes an option with its help text, in a panel of the help page."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


_devices = functools.partial(option, "Devices")
_training = functools.partial(option, "Training")
_adapter = functools.partial(option, "Adapter")
_cache = functools.partial(option, "Cache")
_generation = functools.partial(option, "Text of language models")
FIELDS = "Names of the data's fields"

Json = Annotated[bool, option(None, "Print one JSON object on stdout.", "--json")]

Bundle = Annotated[Path, typer.Argument(help="Folder that `pacplus export` wrote.")]
Run = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
BundleMoved = Annotated[
    Path | None, option(None, "Where the bundle is now, if it has moved.", "--bundle")
]
Texts = Annotated[
    list[str] | None,
    option(None, "A text, prompt or source; may be given several times.", "--text"),
]
FORMS = "JSONL, CSV, TSV, Parquet or a saved data set; several are allowed, - is stdin"
Inputs = Annotated[
    list[str] | None, option(None, f"Texts, prompts, messages or sources: {FORMS}.", "--data")
]
TrainingData = Annotated[
    list[str],
    option(
        None,
        f"What the task needs (text and label, prompt and completion, ...): {FORMS}.",
        "--data",
    ),
]
Evaluation = Annotated[
    list[str] | None,
    option(None, "Data to evaluate on, before training and after each epoch.", "--eval"),
]
HeldOut = Annotated[
    float | None,
    option(
        None, "Fraction of --data to evaluate on instead, as 0.1.", "--split", metavar="FRACTION"
    ),
]
EvaluationData = Annotated[list[str], option(None, "Data like the training data.", "--data")]
Task = Annotated[
    Literal["classification", "regression", "causal-lm", "seq2seq"] | None,
    option(None, "What is learnt.", show_default="the bundle's"),
]

Emulate = Annotated[
    str,
    _devices("Emulated devices: NAME[:memory=400M,cpu=0.5,trainer=no],...", metavar="A,B,..."),
]
Devices = Annotated[str, _devices("Paired devices: all, or ids with commas.", metavar="all|ID,ID")]
Listen = Annotated[
    str, _devices("Where paired devices find this coordinator.", metavar="HOST:PORT")
]
Reprofile = Annotated[
    bool, _devices("Measure devices and links again, whatever is known of them.", "--reprofile")
]
Measure = Annotated[
    bool,
    _devices("Take seconds to measure a device, not tenths: surer predictions.", "--measure"),
]
Wait = Annotated[
    str,
    _devices(
        "How long to wait when the devices that are left cannot go on, e.g. 10m; for as long as "
        "it takes without it, and not at all for emulated ones. Then the run stops, resumable.",
        "--wait",
        metavar="TIME",
    ),
]
Profiles = Annotated[Path | None, _devices("TOML file of devices that are not here.")]
GivenPlan = Annotated[
    Path | None,
    _devices(
        "Run this plan (of `pacplus plan --json`, or a run's plan.json) instead of the best one."
    ),
]

MaxLength = Annotated[
    str,
    _training(
        "Most tokens of a line; auto cuts only the few that are far longer than the others.",
        metavar="N|auto",
        show_default="what the model takes",
    ),
]
Epochs = Annotated[int, _training("Passes over the data.")]
BatchSize = Annotated[
    str,
    _training(
        "Samples of a global batch, which that many devices can share; auto: 16, and for a "
        "language model with few lines down to 4, for more updates.",
        metavar="N|auto",
    ),
]
LearningRate = Annotated[
    float | None, _training("Peak learning rate.", show_default="2e-3 of a pointer, else 1e-3")
]
WeightDecay = Annotated[
    float | None,
    _training(
        "AdamW's, of the side network's matrices.",
        show_default="4; 0.1 of a language model that is no pointer",
    ),
]
Schedule = Annotated[
    Literal["linear", "cosine", "constant"],
    _training("Of the learning rate, after its warm-up: falls to 0 by this curve, or stays."),
]
Keep = Annotated[
    Literal["best", "last"] | None,
    _training(
        "Which epoch's adapter is kept: best is that with the lowest loss on --eval or --split; "
        "of a classifier, with the highest accuracy.",
        show_default="best, without these last",
    ),
]
Patience = Annotated[
    int | None,
    _training(
        "Stop when on --eval or --split no epoch was better for N epochs; 0 is never.",
        metavar="N",
        show_default="2 for language models, others 0",
    ),
]
Seed = Annotated[int, _training("Decides initial weights and order.")]
AdapterSeed = Annotated[
    int | None,
    _training("Decides the initial weights in place of --seed.", show_default="the seed"),
]
Tune = Annotated[
    int | None,
    _training(
        "Train N settings side by side (rate, adapter, reduction, decay, first weights) from one "
        "cache, on one device; keep the best on held-out data.",
        "--tune",
        metavar="N",
        show_default="only the one given",
    ),
]
Loss = Annotated[
    Literal["candidates", "exact"],
    _training(
        "Of language models: over each line's likeliest tokens and a sample of the others, or "
        "over the whole vocabulary, which takes far longer."
    ),
]

Generate = Annotated[
    bool,
    _generation(
        "Also have a language model write what each line asks for, and compare: exact_match. "
        "Takes far longer.",
        "--generate",
    ),
]
MaxNewTokens = Annotated[
    int | None, _generation("Most tokens to write for each prompt.", show_default="64")
]
Temperature = Annotated[
    float | None,
    _generation(
        "Draw tokens at this temperature; 0 takes the most probable one.", show_default="0"
    ),
]
TopK = Annotated[
    int | None, _generation("Draw from the K most probable tokens only.", show_default="all")
]
TopP = Annotated[
    float | None,
    _generation("Draw from the fewest tokens that reach this probability only.", show_default="1"),
]
DrawSeed = Annotated[int | None, _generation("Decides what is drawn.", "--seed", show_default="0")]

Adapter = Annotated[
    Literal["attention", "mlp", "pointer"] | None,
    _adapter(
        "Kind of the side blocks; a pointer also learns to copy tokens of the context.",
        show_default="pointer for decoder-only language models, else attention",
    ),
]
AdapterLayers = Annotated[
    str,
    _adapter("Hidden states that are read: all, every:K, or a list; always a stack's last."),
]
AdapterHeads = Annotated[int, _adapter("Attention heads of a side block.")]
AdapterInit = Annotated[
    Literal["random", "pruned"],
    _adapter("First weights: random, or the backbone's own, pruned at export."),
]
Reduction = Annotated[int, _adapter("Backbone width / adapter width.")]

Dtype = Annotated[
    Literal["auto", "fp32", "fp16", "int8"],
    _cache(
        "How activations are stored: auto takes int8, or else fp16, where these hold them well."
    ),
]
CacheQuota = Annotated[str, _cache("Limit of each device's cache, e.g. 2G.", metavar="SIZE")]
EncryptCache = Annotated[
    bool,
    _cache(
        "Devices keep activations encrypted; later commands with the run do so too. "
        "Needs the extra `encrypt` on each.",
        "--encrypt-cache",
    ),
]

IgnoreField = Annotated[
    list[str] | None,
    option(
        FIELDS,
        "A field that is not to be read; may be given several times.",
        "--ignore-field",
        metavar="NAME",
    ),
]


def head_start(
    bundle: Path, output: Path, *, wanted: bool, resume: bool
) -> contextlib.AbstractContextManager[HeadStart | None]:
    """Starts this machine's device while the command gets ready, if that will not be refused.

    Raises:
        BadInputError: there is no place for its files.
    """
    fresh = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not wanted or not (bundle / "manifest.json").is_file() or not (fresh or resume):
        return contextlib.nullcontext()
    from devices.this_machine import HeadStart
    from edge_runtime.transport import home_directory

    return HeadStart(home_directory(), trains=True)


def cluster(
    emulate: str,
    devices: str,
    listen: str,
    reprofile: bool = False,
    *,
    thorough: bool = False,
    head_start: HeadStart | None = None,
) -> Cluster:
    """Makes the cluster of the devices that were chosen."""
    from coordinator.cluster.host import Cluster
    from devices.specification import parse_emulate

    return Cluster(
        emulate=parse_emulate(emulate) if emulate else (),
        devices=tuple(item.strip() for item in devices.split(",") if item.strip()),
        listen=listen,
        reprofile=reprofile,
        thorough=thorough,
        head_start=head_start,
    )


def training_options(
    epochs: int,
    batch_size: str,
    learning_rate: float | None,
    seed: int,
    loss: Literal["candidates", "exact"] = "candidates",
    adapter_seed: int | None = None,
    weight_decay: float | None = None,
    schedule: Literal["linear", "cosine", "constant"] = "linear",
) -> TrainingOptions:
    """Makes the options of training; where the batch size is to be chosen, it is the default.

    Raises UsageError if a value is out of range.
    """
    from edge_runtime.contract.adapter import TrainingOptions

    if epochs < 1:
        raise UsageError("--epochs must be at least 1")
    size = TrainingOptions().batch_size
    if batch_size != AUTO:
        if not (batch_size.isascii() and batch_size.isdigit()):
            raise UsageError(f"--batch-size {batch_size}: give a number of samples, or auto")
        size = int(batch_size)
    try:
        return TrainingOptions(
            epochs=epochs,
            batch_size=size,
            learning_rate=learning_rate,
            schedule=schedule,
            weight_decay=weight_decay,
            seed=seed,
            loss=loss,
            adapter_seed=adapter_seed,
        )
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 1)}") from None


def duration(given: str, option_name: str) -> float:
    """Reads a time such as 90s, 10m or 2h, in seconds.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", given)
    if found is None:
        raise UsageError(f"{option_name} {given}: give a time such as 90s, 10m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def max_length(given: str) -> int | Literal["auto"] | None:
    """Reads a number of tokens or "auto"; None where nothing is given.

    Raises UsageError for anything else.
    """
    if not given:
        return None
    if given == "auto":
        return "auto"
    if given.isascii() and given.isdigit():
        return int(given)
    raise UsageError(f"--max-length {given}: give a number of tokens, or auto")


def generation_options(**given: int | float | None) -> GenerationOptions | None:
    """Makes the options of writing text, None where nothing of it is given.

    Raises UsageError if a value is out of range, or of drawing where nothing is drawn.
    """
    from edge_runtime.contract.generation import GenerationOptions

    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not chosen:
        return None
    if not chosen.get("temperature"):
        for name in ("top_k", "top_p", "seed"):
            if name in chosen:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for --temperature above 0; without it the most "
                    "probable token is taken"
                )
    try:
        return GenerationOptions(**chosen)
    except ValueError as error:
        name, _, said = str(error).partition(" ")
        raise UsageError(f"--{name.replace('_', '-')} {said}") from None


def display() -> Observer:
    """Opens the live display on stderr."""
    from coordinator.render.live_progress import LiveDisplay

    return LiveDisplay()


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one object on stdout."""
    from coordinator.runs.run_folder import finite

    typer.echo(json.dumps(finite(value), allow_nan=False))
