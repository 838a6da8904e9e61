"""What adapter a bundle gets for a task: checks what fits, and fills in the rest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from edge_runtime.contract.adapter import (
    INITIAL_SHAPE,
    AdapterConfig,
    AdapterKind,
    Initialization,
    initial_shape,
)
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import Manifest, Task

LayerIndices: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChoice:
    """What the user chooses of the adapter.

    Attributes:
        kind: of the side blocks.
        reduction: backbone width / adapter width.
        layers: ``"all"``, ``"every:K"`` or a comma-separated list of hidden states.
        num_heads: attention heads of a side block.
        initialization: where the first weights come from.
    """

    kind: AdapterKind = "attention"
    reduction: int = 8
    layers: str = "all"
    num_heads: int = 1
    initialization: Initialization = "random"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataTraits:
    """What of the training data shapes the adapter.

    Attributes:
        labels: class names in output order.
        pair: the lines have two texts.
        values: the targets of a regression, (N,) float32; None for other tasks.
    """

    labels: tuple[str, ...] = ()
    pair: bool = False
    values: npt.NDArray[np.float32] | None = None


def task_for(manifest: Manifest, wanted: Task | None) -> Task:
    """The task to train: the wanted one if the bundle can do it, else the bundle's own.

    Classes and values need one stack, whose tokens are pooled; a language model needs the
    frozen head, behind the one stack or the second of two.

    Raises:
        BadInputError: the bundle cannot do it; the message says how to export one that can.
    """
    task = wanted or manifest.task
    stacks = len(manifest.streams)
    if task in ("classification", "regression"):
        fits = stacks == 1
    elif task == "causal-lm":
        fits = manifest.streams == ("decoder",) and manifest.head is not None
    else:
        fits = stacks == 2 and manifest.head is not None
    if not fits:
        raise BadInputError(
            f"the bundle of {manifest.model_id} was exported for {manifest.task} and cannot be "
            f"trained for {task}; export {_NEEDS[task]} with --task {task}, or give another --task"
        )
    return task


_NEEDS: dict[Task, str] = {
    "classification": "the model",
    "regression": "the model",
    "causal-lm": "a decoder-only model (as GPT-2 or Llama)",
    "seq2seq": "an encoder-decoder (as T5 or BART)",
}


def adapter_config(
    manifest: Manifest, task: Task, choice: AdapterChoice, learnt: DataTraits
) -> AdapterConfig:
    """The adapter of a bundle for a task.

    Raises:
        BadInputError: the choice does not fit the bundle.
    """
    if choice.initialization == "pruned" and not manifest.adapter_init:
        raise BadInputError(
            f"the bundle of {manifest.model_id} has no pruned initial adapter; export it with "
            "pacplus export --adapter-init pruned, or train with --adapter-init random"
        )
    head = manifest.head if task in ("causal-lm", "seq2seq") else None
    if head is not None:
        num_outputs = head.vocab_size
    else:
        num_outputs = len(learnt.labels) if task == "classification" else 1
    layers = parse_layers(choice.layers, stacks_of(manifest))
    encoder = manifest.layers_of("encoder") if len(manifest.streams) > 1 else range(0)
    mean, scale = 0.0, 1.0
    if learnt.values is not None:
        mean, scale = float(learnt.values.mean()), float(learnt.values.std()) or 1.0
    try:
        return AdapterConfig(
            kind=choice.kind,
            hidden_size=manifest.hidden_size,
            reduction=choice.reduction,
            num_heads=choice.num_heads,
            layers=layers,
            encoder_layers=sum(layer in encoder for layer in layers),
            causal=head is not None,
            initialization=choice.initialization,
            task=task,
            num_outputs=num_outputs,
            logit_scale=head.scale if head else 1.0,
            logit_softcap=head.softcap if head else 0.0,
            pair=learnt.pair,
            target_mean=mean,
            target_scale=scale,
            base_model=manifest.model_id,
            bundle_digest=manifest.digest,
            labels=learnt.labels,
        )
    except ValueError as error:
        raise BadInputError(f"adapter: {error}") from None


def check_initial_weights(bundle: Path, manifest: Manifest, config: AdapterConfig) -> None:
    """Refuses initial weights that were made for another adapter.

    Raises:
        BadInputError: says what they were made for, or that their file is damaged.
    """
    if config.initialization != "pruned":
        return
    path = bundle / manifest.adapter_init
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        # Earlier bundles have the fields themselves.
        shape = metadata.get(INITIAL_SHAPE)
        made_for = metadata if shape is None else dict(json.loads(shape))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error})") from None
    needed = initial_shape(config)
    if made_for == needed:
        return
    reduction, heads = made_for.get("reduction", "?"), made_for.get("num_heads", "?")
    message = (
        f"the pruned initial adapter of {bundle} is for --adapter attention --adapter-layers all "
        f"--reduction {reduction} --adapter-heads {heads}; train with these, or with "
        "--adapter-init random"
    )
    if (reduction, heads) != (needed["reduction"], needed["num_heads"]):
        message += (
            ", or export again with --adapter-init pruned "
            f"--adapter-reduction {needed['reduction']} --adapter-heads {needed['num_heads']}"
        )
    raise BadInputError(message)


def stacks_of(manifest: Manifest) -> tuple[range, ...]:
    """The hidden states of each stack, by index."""
    return tuple(manifest.layers_of(stream) for stream in manifest.streams)


def parse_layers(text: str, stacks: Sequence[range]) -> LayerIndices:
    """Hidden states that an adapter reads; the last one of each stack is always read.

    Args:
        text: ``all``, ``every:K`` (counted back from the end of each stack), or numbers.
        stacks: hidden states of each stack, one after the other.

    Raises:
        BadInputError: the text is none of these.
    """
    everything = {layer for stack in stacks for layer in stack}
    chosen: set[int] = set()
    try:
        if text == "all":
            chosen = everything
        elif text.startswith("every:"):
            step = int(text.removeprefix("every:"))
            chosen = {layer for stack in stacks for layer in stack[::-step]} if step > 0 else set()
        else:
            chosen = {int(item) for item in text.split(",")}
    except ValueError:
        chosen = set()
    if not chosen or not chosen <= everything:
        raise BadInputError(
            f"adapter layers {text!r}: write all, every:K, or numbers from 0 to {max(everything)}"
        )
    return tuple(sorted(chosen | {stack[-1] for stack in stacks}))


def added_layers(text: str, layers: LayerIndices) -> LayerIndices:
    """Those of ``layers`` that a list does not name."""
    if text == "all" or text.startswith("every:"):
        return ()
    named = {int(item) for item in text.split(",")}
    return tuple(layer for layer in layers if layer not in named)
