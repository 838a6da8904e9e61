"""Finds a checkpoint and loads it."""

import contextlib
import dataclasses
import json
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

from . import gguf
from .families import Family, family_of, input_specs
from .quiet import first_line, quiet

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_CLASSES = {"causal-lm": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk whose architecture is supported.

    Attributes:
        path: its folder, or a GGUF file, which holds everything.
        model_id: its name in the bundle; no path, so that a bundle does not depend on it.
        config: transformers' configuration.
        family: its row of the table.
    """

    path: Path
    model_id: str
    config: Any
    family: Family

    @property
    def is_gguf(self) -> bool:
        """Tells a GGUF file from a folder."""
        return self.path.suffix == gguf.SUFFIX

    @property
    def source(self) -> tuple[Path, dict[str, Any]]:
        """Arguments of ``from_pretrained``."""
        options: dict[str, Any] = {"trust_remote_code": False}
        if self.is_gguf:
            return self.path.parent, options | {"gguf_file": self.path.name}
        return self.path, options


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


def find_checkpoint(model: str) -> Checkpoint:
    """Opens a local folder or GGUF file, or fetches a hub id.

    Raises:
        BadInputError: there is no such model, or its architecture is not supported.
    """
    path = Path(model)
    if path.is_dir():
        return _open_folder(path, None)
    if path.is_file() and path.suffix == gguf.SUFFIX:
        config = gguf.read_config(path)
        family = family_of(config.model_type, str(path))
        return Checkpoint(path=path, model_id=path.stem, config=config, family=family)
    if path.exists():
        raise BadInputError(
            f"{model}: not a folder; give the folder that holds config.json, or a .gguf file"
        )
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise BadInputError(f"{model}: no such folder")
    try:
        fetched = snapshot_download(model, allow_patterns=_HUB_FILES)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{model}: no such folder, and not on the hub: {first_line(error)}"
        ) from None
    return _open_folder(Path(fetched), model)


def _open_folder(path: Path, hub_id: str | None) -> Checkpoint:
    file = path / "config.json"
    if not file.is_file():
        raise BadInputError(f"{path}: is no model, it has no config.json")
    try:
        fields = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BadInputError(f"{file}: not JSON ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
        raise BadInputError(f"{file}: is no model's configuration, model_type is missing")
    family = family_of(fields["model_type"], str(path))
    name = fields.get("_name_or_path")
    # A path would make the bundle depend on where its model once lay.
    known = isinstance(name, str) and name.count("/") <= 1 and not name.startswith((".", "/"))
    model_id = hub_id or (name if known and name else path.resolve().name)
    with quiet():
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    return Checkpoint(path=path, model_id=model_id, config=config, family=family)


def load_model(checkpoint: Checkpoint, task: Task) -> LoadedModel:
    """Loads the weights that the task needs.

    Raises:
        BadInputError: weights are missing, damaged or not those of the configuration.
    """
    source, options = checkpoint.source
    family, kind = checkpoint.family, _CLASSES.get(task, AutoModel)
    options |= family.load_options if kind is AutoModel else {}
    options |= {} if checkpoint.is_gguf else {"use_safetensors": True}
    with quiet(), gguf.loading() if checkpoint.is_gguf else contextlib.nullcontext():
        try:
            model, info = kind.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, **options
            )
        except Exception as error:
            # transformers lets errors of its file readers through, which share no base.
            raise BadInputError(
                f"{checkpoint.path}: its weights cannot be loaded ({first_line(error)}); "
                f"{'the file' if checkpoint.is_gguf else 'model.safetensors'} must be whole"
            ) from None
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise BadInputError(
            f"{checkpoint.path}: {len(wrong)} weights of the architecture are not in the "
            f"checkpoint, {wrong[0]} first; it is damaged or of another model"
        )
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
