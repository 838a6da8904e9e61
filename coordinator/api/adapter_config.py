"""Derives the adapter of a bundle for a task from the user's choice and the data's traits."""

import contextlib
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
    """The user's choice of side blocks.

    Without a ``kind`` it is the task's: a pointer for a decoder-only language model, else
    attention; and attention where its heads or pruned weights are asked for. ``reduction`` is
    backbone width / adapter width; ``layers`` are the hidden states that are read: ``"all"``,
    ``"every:K"`` or a comma-separated list.
    """

    kind: AdapterKind | None = None
    reduction: int = 8
    layers: str = "all"
    num_heads: int = 1
    initialization: Initialization = "random"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataTraits:
    """Traits of the training data that shape the adapter.

    ``labels`` are in output order; ``pair`` says that lines have two texts; ``values`` are
    the targets of a regression, (N,) float64, not all equal.
    """

    labels: tuple[str, ...] = ()
    pair: bool = False
    values: npt.NDArray[np.float64] | None = None


def task_for(manifest: Manifest, wanted: Task | None) -> Task:
    """Chooses the task to train: the wanted one or the bundle's own.

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
    manifest: Manifest, task: Task, choice: AdapterChoice, traits: DataTraits
) -> AdapterConfig:
    """Shapes the adapter; raises BadInputError if the choice does not fit the bundle."""
    if choice.initialization == "pruned" and not manifest.adapter_init:
        raise BadInputError(
            f"the bundle of {manifest.model_id} has no pruned initial adapter; export it with "
            "pacplus export --adapter-init pruned, or train with --adapter-init random"
        )
    head = manifest.head if task in ("causal-lm", "seq2seq") else None
    num_outputs = len(traits.labels) if task == "classification" else 1
    stacks = [manifest.layers_of(stream) for stream in manifest.streams]
    layers = parse_layers(choice.layers, stacks)
    encoder = manifest.layers_of("encoder") if len(stacks) > 1 else ()
    mean, scale = 0.0, 1.0
    if traits.values is not None:
        mean, scale = _moments(traits.values)
    try:
        return AdapterConfig(
            kind=_kind(choice, task),
            hidden_size=manifest.hidden_size,
            reduction=choice.reduction,
            num_heads=choice.num_heads,
            layers=layers,
            encoder_layers=sum(layer in encoder for layer in layers),
            causal=head is not None,
            initialization=choice.initialization,
            task=task,
            num_outputs=head.vocab_size if head else num_outputs,
            logit_scale=head.scale if head else 1.0,
            logit_softcap=head.softcap if head else 0.0,
            pair=traits.pair,
            target_mean=mean,
            target_scale=scale,
            base_model=manifest.model_id,
            bundle_digest=manifest.digest,
            labels=traits.labels,
        )
    except ValueError as error:
        raise BadInputError(f"adapter: {error}") from None


def _kind(choice: AdapterChoice, task: Task) -> AdapterKind:
    of_attention = choice.num_heads > 1 or choice.initialization == "pruned"
    if choice.kind is None:
        return "pointer" if task == "causal-lm" and not of_attention else "attention"
    if choice.kind == "pointer" and of_attention:
        raise BadInputError(
            "adapter: a pointer has heads and first weights of its own; leave out --adapter-heads "
            "and --adapter-init, or train with --adapter attention"
        )
    if choice.kind == "pointer" and task != "causal-lm":
        raise BadInputError(
            f"adapter: a pointer is for decoder-only language models, not for {task}; train with "
            "--adapter attention or mlp"
        )
    return choice.kind


def _moments(values_N: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation, both finite and the latter positive."""
    unit = float(np.abs(values_N).max()) or 1.0  # squares of 1e200 and of 1e-200 are no numbers
    mean, scale = float((values_N / unit).mean()) * unit, float((values_N / unit).std()) * unit
    return mean, scale or float(np.finfo(np.float64).tiny)


def indistinct_values(config: AdapterConfig, traits: DataTraits) -> tuple[str, ...]:
    """Notes how many values of a regression become one where float32 computes with them."""
    if traits.values is None:
        return ()
    different = len(np.unique(traits.values))
    learnt = len(np.unique(config.standardized(traits.values)))
    if learnt == different:
        return ()
    return (
        f"{different} different labels are only {learnt} to the adapter, which computes in "
        "float32: they lie too close for their range; look for outliers",
    )


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
    heads, reduction = made_for.get("num_heads", "?"), made_for.get("reduction", "?")
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


def parse_layers(text: str, stacks: Sequence[range]) -> LayerIndices:
    """Parses which hidden states an adapter reads; it always reads the last of each stack.

    ``text`` is ``all``, ``every:K`` (counted back from the end of each stack), or numbers;
    anything else is a BadInputError.
    """
    everything = {layer for stack in stacks for layer in stack}
    chosen: set[int] = set()
    with contextlib.suppress(ValueError):
        if text == "all":
            chosen = everything
        elif not text.startswith("every:"):
            chosen = {int(item) for item in text.split(",")}
        elif (step := int(text.removeprefix("every:"))) > 0:
            chosen = {layer for stack in stacks for layer in stack[::-step]}
    if not chosen or not chosen <= everything:
        raise BadInputError(
            f"adapter layers {text!r}: write all, every:K, or numbers from 0 to {max(everything)}"
        )
    return tuple(sorted(chosen | {stack[-1] for stack in stacks}))


def added_layers(text: str, layers: LayerIndices) -> LayerIndices:
    """Finds those of ``layers`` that a list does not name."""
    if text == "all" or text.startswith("every:"):
        return ()
    named = {int(item) for item in text.split(",")}
    return tuple(layer for layer in layers if layer not in named)
