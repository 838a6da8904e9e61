"""Finds a checkpoint and loads it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
)

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import InputSpec, Task
from export.gguf.config import read_config
from export.gguf.reader import SUFFIX, open_gguf
from export.gguf.weights import load_weights
from export.wording import first_line, one_line

from .families import Family, family_of, input_specs
from .folders import (
    ADAPTER_CONFIG,
    CONFIG,
    GENERATION_CONFIG,
    check_pointers,
    json_object,
    no_model,
)
from .foreign import check_settings_plain, check_tensors_plain, packed_tensors
from .loaded_weights import check_finite, check_loaded, check_rotary
from .padding import mend_padding
from .peft_adapters import architecture_of, base_of, is_adapter, merge_adapter
from .quiet import quiet
from .settings import check_settings, check_task_settings, is_ignored
from .weight_files import StoredTensor, stored_tensors

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_CLASSES = {"causal-lm": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
_ANY = {
    "encoder": "AutoModel",
    "decoder": "AutoModelForCausalLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk whose architecture is supported.

    Attributes:
        path: its folder, or a GGUF file, which holds everything.
        model_id: its name in the bundle; no path, so that a bundle does not depend on it.
        config: transformers' configuration.
        family: its row of the table.
        tensors: of its weight files, by name; empty for a GGUF file.
        ignored: weights and settings that the user knows not to matter.
        notes: what people should know of it, one line each.
    """

    path: Path
    model_id: str
    config: Any
    family: Family
    tensors: Mapping[str, StoredTensor] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_gguf(self) -> bool:
        """Tells a GGUF file from a folder."""
        return self.path.suffix == SUFFIX


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory, as float32, for inference.

    Attributes:
        backbone: makes the hidden states.
        language_model: backbone and head, for the tasks that have one.
        family: its row of the table.
        inputs: of the graph that it becomes.
    """

    backbone: Any
    language_model: Any = None
    family: Family
    inputs: tuple[InputSpec, ...]


def find_checkpoint(model: str, scratch: Path, ignored: Sequence[str] = ()) -> Checkpoint:
    """Opens a local folder or GGUF file, or fetches a hub id.

    Args:
        model: which one.
        scratch: an empty folder, where an adapter is merged with its base model.
        ignored: weights and settings that the user knows not to matter.

    Raises:
        BadInputError: there is no such model, its architecture is not supported, or it has
            something that would be dropped.
    """
    path = Path(model)
    if path.is_file() and path.suffix == SUFFIX:
        return _open_gguf(path, tuple(ignored))
    folder, hub_id = _folder_of(model)
    check_pointers(folder)
    if not is_adapter(folder):
        return _open_folder(folder, hub_id, tuple(ignored))
    name = base_of(folder)
    try:
        base, base_id = _folder_of(name)
    except BadInputError as error:
        raise BadInputError(
            f"{folder}: is an adapter for a model that is not here ({error}); name the folder of "
            f"its base model as base_model_name_or_path in {folder / ADAPTER_CONFIG}"
        ) from None
    if base != folder:
        check_pointers(base)
        if is_adapter(base):
            raise BadInputError(f"{base}: is an adapter itself; merge it first")
    opened = _open_folder(base, base_id, tuple(ignored))
    note = merge_adapter(folder, base, scratch)
    merged = _open_folder(scratch, hub_id or folder.resolve().name, tuple(ignored))
    return dataclasses.replace(merged, notes=tuple(dict.fromkeys((*opened.notes, note))))


def _open_gguf(path: Path, ignored: tuple[str, ...]) -> Checkpoint:
    config = read_config(open_gguf(path), functools.partial(is_ignored, ignored=ignored))
    family = family_of(config.model_type, str(path))
    return Checkpoint(
        path=path,
        model_id=path.stem,
        config=config,
        family=family,
        ignored=ignored,
        notes=mend_padding(path, config, family) + _ignored_note(ignored),
    )


def _ignored_note(ignored: tuple[str, ...]) -> tuple[str, ...]:
    return (f"not checked, as --ignore says: {', '.join(ignored)}",) if ignored else ()


def _folder_of(model: str) -> tuple[Path, str | None]:
    """Finds the folder of a model on this machine, and its hub id where it has been fetched."""
    path = Path(model)
    if path.is_dir():
        return path, None
    if path.exists():
        raise BadInputError(
            f"{model}: not a folder; give the folder that holds config.json, or a .gguf file"
        )
    if path.suffix == SUFFIX:
        raise BadInputError(f"{model}: no such file")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise BadInputError(f"{model}: no such folder")
    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES)), model
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{model}: no such folder, and not on the hub: {first_line(error)}"
        ) from None


def _open_folder(path: Path, hub_id: str | None, ignored: tuple[str, ...]) -> Checkpoint:
    file = path / CONFIG
    if not file.is_file():
        raise no_model(path)
    fields = json_object(file)
    if not isinstance(fields.get("model_type"), str):
        raise BadInputError(f"{file}: is no model's configuration, model_type is missing")
    if (path / GENERATION_CONFIG).is_file():
        json_object(path / GENERATION_CONFIG)  # transformers would go on without a damaged one
    family = family_of(fields["model_type"], str(path))
    name = fields.get("_name_or_path")
    # A path would make the bundle depend on where its model once lay.
    known = isinstance(name, str) and name.count("/") <= 1 and not name.startswith((".", "/"))
    model_id = hub_id or (name if known and name else path.resolve().name)
    tensors = stored_tensors(path, architecture_of(fields) or _ANY[family.stack])
    check_settings_plain(file, fields, not packed_tensors(tensors))
    check_tensors_plain(path, tensors)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        except Exception as error:
            # Checks of settings raise what they like.
            raise BadInputError(f"{file}: transformers refuses it: {one_line(error)}") from None
    check_settings(file, fields, config, family.stack, ignored)
    notes = mend_padding(file, config, family) + _ignored_note(ignored)
    return Checkpoint(
        path=path,
        model_id=model_id,
        config=config,
        family=family,
        tensors=tensors,
        ignored=ignored,
        notes=notes,
    )


def load_model(checkpoint: Checkpoint, task: Task) -> LoadedModel:
    """Loads the weights that the task needs.

    The parity check compares the export with this very model, so here is where the checkpoint
    must prove to be all in it: transformers is the one that says which weights it expected,
    found, left over and reshaped, and any but those of heads of other tasks is an error.
    Settings were checked when the checkpoint was opened.

    Raises:
        BadInputError: weights are missing, left over, damaged or not those of the configuration.
    """
    family, kind = checkpoint.family, _CLASSES.get(task, AutoModel)
    check_task_settings(checkpoint.path, checkpoint.config, task)
    with quiet():
        try:
            with torch.device("meta"):
                kind.from_config(checkpoint.config)
        except Exception as error:
            # As below, for what the configuration may say.
            raise BadInputError(
                f"{checkpoint.path}: transformers cannot build the model that its configuration "
                f"describes: {one_line(error)}"
            ) from None
        if checkpoint.is_gguf:
            ignores = functools.partial(is_ignored, ignored=checkpoint.ignored)
            model, info = load_weights(open_gguf(checkpoint.path), checkpoint.config, kind, ignores)
        else:
            model, info = _load_folder(checkpoint, kind)
    check_loaded(checkpoint.path, model, info, checkpoint.ignored)
    check_rotary(checkpoint.path, model, checkpoint.tensors)
    check_finite(checkpoint.path, model)
    model.eval().requires_grad_(False)
    backbone, language_model = model, None
    if task in _CLASSES:
        backbone, language_model = model.base_model, model
    elif family.stack == "encoder-decoder":
        backbone = model.get_encoder()
    return LoadedModel(
        backbone=backbone,
        language_model=language_model,
        family=family,
        inputs=input_specs(checkpoint.config, family, task),
    )


def _load_folder(checkpoint: Checkpoint, kind: Any) -> Any:
    options = checkpoint.family.load_options if kind is AutoModel else {}
    try:
        return kind.from_pretrained(
            checkpoint.path,
            config=checkpoint.config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed, and refused
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
    except Exception as error:
        # transformers lets errors of its file readers through, which share no base.
        raise BadInputError(
            f"{checkpoint.path}: its weights cannot be loaded: {one_line(error)}"
        ) from None
