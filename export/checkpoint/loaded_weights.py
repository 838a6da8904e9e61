"""Checks that a loaded model is the checkpoint: every weight used, none made up, all finite."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from edge_runtime.contract.errors import BadInputError

from .foreign import BUFFERS
from .quiet import quiet
from .settings import is_ignored

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|block)\.(\d+)\.")

_OTHER_HEADS = {"lm_predictions", "mask_predictions", "multiple_choice_head"}
"""Heads of published checkpoints of which transformers has no class."""


def check_loaded(
    folder: Path, model: Any, info: Mapping[str, Iterable[Any]], ignored: Sequence[str]
) -> None:
    """Compares what transformers expected with what it found.

    Args:
        folder: the checkpoint, for messages.
        model: what was loaded.
        info: transformers' ``output_loading_info``.
        ignored: weights that the user knows not to matter.

    Raises:
        BadInputError: names weights that nothing uses, that are missing, or whose shapes are
            others than those of the configuration.
    """
    unused = sorted(
        key
        for key in info["unexpected_keys"]
        if not BUFFERS.search(key) and not is_ignored(key, ignored)
    )
    unused = _without_heads(model, unused) if unused else unused
    missing = sorted(info["missing_keys"])
    _check_layer_count(folder, _layer_count(model.config), unused, missing)
    if unused and missing:
        raise BadInputError(
            f"{folder}: its weights have other names than the architecture's: nothing uses "
            f"{_listed(unused)}, while {_listed(missing)} are missing; it is of another model, or "
            "was saved by a tool that renames (save it by save_pretrained of the bare model)"
        )
    if unused:
        raise BadInputError(
            f"{folder}: nothing uses {_listed(unused)}; the model would not be the one that was "
            f"trained; if it does not matter, say so with --ignore {unused[0]}"
        )
    if missing:
        raise BadInputError(
            f"{folder}: {_listed(missing)} of the architecture are not in the checkpoint; it is "
            "damaged, of another model, or made for another --task"
        )
    for key, found, expected in sorted(info["mismatched_keys"]):
        raise BadInputError(
            f"{folder}: {key} has the shape {tuple(found)}, config.json makes it "
            f"{tuple(expected)}; the two are of different models"
        )


def _check_layer_count(folder: Path, count: int, unused: list[str], missing: list[str]) -> None:
    """Says it in so many words where whole layers are too many or too few."""
    surplus = {int(found[1]) for key in unused if (found := _LAYER.search(key))}
    absent = {int(found[1]) for key in missing if (found := _LAYER.search(key))}
    if surplus and min(surplus) >= count and not missing:
        there, keys, fate = max(surplus) + 1, unused, "would be dropped"
    elif absent and min(absent) > 0 and max(absent) == count - 1 and not unused:
        there, keys, fate = min(absent), missing, "are not in the checkpoint"
    else:
        return
    raise BadInputError(
        f"{folder}: config.json says {count} layers, but the weights have {there}: "
        f"{_listed(keys)} {fate}; give the config.json and the weights of one model"
    )


def _listed(names: list[str], shown: int = 3) -> str:
    head = ", ".join(names[:shown])
    return head if len(names) <= shown else f"{head} and {len(names) - shown} more"


def _layer_count(config: Any) -> int:
    names = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
    counts = [getattr(config, name, None) or 0 for name in names]
    return max(counts)


def _without_heads(model: Any, keys: list[str]) -> list[str]:
    """Leaves out heads, which other tasks need: top-level modules outside the backbone.

    The heads are those of all classes that transformers has for this kind of model.
    """
    own = {key.split(".")[0] for key in model.base_model.state_dict()}
    roots, exact = set(_OTHER_HEADS), set()
    for kind in _classes_of(model.config.model_type):
        try:
            with quiet(), torch.device("meta"):
                whole = kind(copy.deepcopy(model.config))  # some classes change it
        except (ValueError, TypeError, AttributeError, ImportError):
            continue  # a class that needs settings which this model does not have
        prefix = f"{whole.base_model_prefix}."
        for key in whole.state_dict():
            exact.add(key.removeprefix(prefix))
            if not key.startswith(prefix):
                roots.add(key.split(".")[0])
    prefix = f"{model.base_model_prefix}."
    return [
        key
        for key in keys
        if key.split(".")[0] not in roots - own and key.removeprefix(prefix) not in exact
    ]


def _classes_of(model_type: str) -> list[Any]:
    tables = (
        table
        for name, table in vars(modeling_auto).items()
        if name.startswith("MODEL_") and name.endswith("_MAPPING_NAMES")
    )
    names = {name for table in tables if isinstance(name := table.get(model_type), str)}
    return [kind for name in sorted(names) if (kind := getattr(transformers, name, None))]


def check_finite(folder: Path, model: torch.nn.Module) -> None:
    """Refuses NaN and infinity, which no result can be made of.

    Raises:
        BadInputError: names the tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            kind = "NaN" if torch.isnan(tensor).any() else "infinity"
            raise BadInputError(
                f"{folder}: {name} holds {kind} ({count} of its {tensor.numel()} values); the "
                "training diverged or the file is damaged, so use an earlier checkpoint"
            )
