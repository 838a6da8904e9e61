"""Writes ``adapter_init.safetensors``, the pruned layers that adapters may begin with."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.contract.adapter import INITIAL_SHAPE, AdapterConfig, initial_shape
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import Stream, Task
from edge_runtime.contract.tensors import write_tensors
from export.checkpoint.load import LoadedModel
from export.verify.samples import Sample

from .prune import pruned_tensors

FILE = "adapter_init.safetensors"

_CALIBRATION_LINES = 256
CALIBRATION_LENGTH = 256
"""Longest calibration sample, in tokens."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrunedAdapter:
    """The initial adapter that an export cuts out of the backbone's layers.

    Attributes:
        reduction: backbone width / adapter width.
        num_heads: attention heads of a side block.
        calibration: texts to measure importance on; the built-in sentences if empty.
    """

    reduction: int = 8
    num_heads: int = 1
    calibration: tuple[str, ...] = ()


def read_calibration(path: Path) -> tuple[str, ...]:
    """The first 256 lines of a text that are not blank.

    Raises:
        BadInputError: the file cannot be read, or is empty.
    """
    try:
        with path.open(encoding="utf-8") as file:
            texts = (line.strip() for line in file if line.strip())
            lines = tuple(itertools.islice(texts, _CALIBRATION_LINES))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read as text ({error})") from None
    if not lines:
        raise BadInputError(f"{path}: has no text; give one sample a line")
    return lines


def check_shape(shape: PrunedAdapter, model_config: Any) -> None:
    """Refuses shapes that cannot be cut out of a backbone, before work begins.

    Raises:
        UsageError: too few channels for the heads, or not as many heads.
    """
    try:
        _config(shape, model_config.hidden_size, ("encoder",), "classification")
    except ValueError as error:
        raise UsageError(f"--adapter-reduction {shape.reduction}: {error}") from None
    if shape.num_heads > model_config.num_attention_heads:
        raise UsageError(
            f"--adapter-heads {shape.num_heads}: the model has only "
            f"{model_config.num_attention_heads}"
        )


def write_initial_adapter(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    streams: Sequence[Stream],
    shape: PrunedAdapter,
    root: Path,
) -> str:
    """Prunes the backbone's layers and writes the result into the bundle's folder ``root``.

    Args:
        loaded: the model in PyTorch.
        samples: to measure importance on.
        streams: of every hidden state.
        shape: of the adapter.
        root: the bundle's folder.

    Returns:
        The file's path inside the bundle.
    """
    task: Task = "seq2seq" if len(set(streams)) > 1 else "classification"
    config = _config(shape, loaded.backbone.config.hidden_size, streams, task)
    tensors = pruned_tensors(loaded, samples, config)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    shape_metadata = {INITIAL_SHAPE: json.dumps(initial_shape(config), sort_keys=True)}
    (root / FILE).write_bytes(write_tensors(arrays, shape_metadata))
    return FILE


def _config(
    shape: PrunedAdapter, hidden_size: int, streams: Sequence[Stream], task: Task
) -> AdapterConfig:
    """The configuration as far as it decides the tensors; neither outputs nor head do."""
    both = len(set(streams)) > 1
    return AdapterConfig(
        hidden_size=hidden_size,
        reduction=shape.reduction,
        num_heads=shape.num_heads,
        layers=tuple(range(len(streams))),
        encoder_layers=list(streams).count("encoder") if both else 0,
        task=task,
        num_outputs=1,
    )
