"""Finds a checkpoint and loads it."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import InputSpec, Task
from export.gguf.config import read_config
from export.gguf.reader import SUFFIX, open_gguf
from export.gguf.tokenizer import read_tokenizer
from export.gguf.weights import load_weights

from .families import Family, family_of, input_specs
from .quiet import first_line, quiet

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja"),
)
_CLASSES = {"causal-lm": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
# Beyond this, model_max_length is transformers' way to say "not known".
_SANE_LENGTH = 1_000_000


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


def find_checkpoint(model: str) -> Checkpoint:
    """Opens a local folder or GGUF file, or fetches a hub id.

    Raises:
        BadInputError: there is no such model, or its architecture is not supported.
    """
    path = Path(model)
    if path.is_dir():
        return _open_folder(path, None)
    if path.is_file() and path.suffix == SUFFIX:
        config = read_config(open_gguf(path))
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
    family, kind = checkpoint.family, _CLASSES.get(task, AutoModel)
    options = family.load_options if kind is AutoModel else {}
    with quiet():
        if checkpoint.is_gguf:
            model, info = load_weights(open_gguf(checkpoint.path), checkpoint.config, kind)
        else:
            model, info = _load_folder(checkpoint, kind, options)
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


def _load_folder(checkpoint: Checkpoint, kind: Any, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(
            checkpoint.path,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            **options,
        )
    except Exception as error:
        # transformers lets errors of its file readers through, which share no base.
        raise BadInputError(
            f"{checkpoint.path}: its weights cannot be loaded ({first_line(error)}); "
            "model.safetensors must be whole"
        ) from None


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes ``tokenizer.json`` and its companions into ``folder``.

    Raises:
        BadInputError: there is no tokenizer that the ``tokenizers`` package can read.
    """
    folder.mkdir()
    source = checkpoint.path
    if checkpoint.is_gguf or not (source / "tokenizer.json").is_file():
        source = folder / "converted"
        _convert_tokenizer(checkpoint, source)
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    if source.parent == folder:
        shutil.rmtree(source)


def _convert_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    source = checkpoint.path
    with quiet():
        try:
            tokenizer = (
                read_tokenizer(open_gguf(source))
                if checkpoint.is_gguf
                else AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            )
            tokenizer.save_pretrained(folder)
        except BadInputError:
            raise
        except Exception as error:
            # As above: whatever a converter raises.
            raise _no_tokenizer(checkpoint.path, first_line(error)) from None
    if not (folder / "tokenizer.json").is_file():
        raise _no_tokenizer(checkpoint.path, "it has no fast form")


def _no_tokenizer(path: Path, reason: str) -> BadInputError:
    return BadInputError(f"{path}: has no tokenizer.json, and none can be made of it ({reason})")


def tokenizer_limit(checkpoint: Checkpoint) -> int | None:
    """``model_max_length`` of the tokenizer, in tokens; None where it is not known."""
    file = checkpoint.path / "tokenizer_config.json"
    if checkpoint.is_gguf or not file.is_file():
        return None
    try:
        limit = json.loads(file.read_text("utf-8")).get("model_max_length")
    except (ValueError, AttributeError) as error:
        raise BadInputError(f"{file}: not a JSON object ({error})") from None
    return int(limit) if isinstance(limit, int | float) and 0 < limit < _SANE_LENGTH else None
