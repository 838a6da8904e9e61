"""Checks that a loaded model is the checkpoint: every weight used, none made up, all finite."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers.models.auto import modeling_auto

from edge_runtime.contract.errors import BadInputError
from export.wording import listed

from .foreign import BUFFERS
from .quiet import quiet
from .settings import is_ignored
from .weight_files import StoredTensor

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|block)\.(\d+)\.")

_ROTARY_TOLERANCE = 0.02
"""Relative; they may have been saved in bfloat16."""

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
    if info["error_msgs"]:
        raise BadInputError(f"{folder}: its weights cannot be loaded: {min(info['error_msgs'])}")
    _check_layer_count(folder, _layer_count(model.config), unused, missing)
    if unused and missing:
        raise BadInputError(
            f"{folder}: its weights have other names than the architecture's: nothing uses "
            f"{listed(unused)}, while {listed(missing)} are missing; it is of another model, or "
            "was saved by a tool that renames (save it by save_pretrained of the bare model)"
        )
    if unused:
        raise BadInputError(
            f"{folder}: nothing uses {listed(unused)}; the model would not be the one that was "
            f"trained; if it does not matter, say so with --ignore {unused[0]}"
        )
    if missing:
        raise BadInputError(
            f"{folder}: {listed(missing)} of the architecture are not in the checkpoint; it is "
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
        f"{listed(keys)} {fate}; give the config.json and the weights of one model"
    )


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


def check_rotary(folder: Path, model: torch.nn.Module, tensors: Mapping[str, StoredTensor]) -> None:
    """Compares rotary frequencies that old versions saved with those that are computed now.

    Raises:
        BadInputError: the checkpoint was trained with others than ``config.json`` describes.
    """
    now = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    for name, tensor in tensors.items():
        if not name.endswith("rotary_emb.inv_freq"):
            continue
        with safe_open(tensor.file, "pt") as file:
            stored = file.get_tensor(name).float()
        if not any(
            stored.shape == buffer.shape and torch.allclose(stored, buffer, rtol=_ROTARY_TOLERANCE)
            for buffer in now
        ):
            raise BadInputError(
                f"{folder}: {name} are other rotary frequencies than config.json describes; give "
                "it the rope_theta and rope_scaling that the model was trained with"
            )


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
