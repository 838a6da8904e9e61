"""Finding a checkpoint and loading it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModel, AutoTokenizer

from edge_runtime.contract.errors import BadInputError

from .families import Family, family_of

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
# Beyond this, model_max_length is transformers' way to say "not known".
_SANE_LENGTH = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk whose architecture is supported.

    Attributes:
        path: its folder.
        model_id: what the bundle calls it; no path, so that a bundle does not depend on it.
        config: transformers' configuration.
        family: its row of the table.
    """

    path: Path
    model_id: str
    config: Any
    family: Family


def find_checkpoint(model: str) -> Checkpoint:
    """Opens a local folder, or fetches a hub id.

    Raises:
        BadInputError: there is no such model, or its architecture is not supported.
    """
    path = Path(model)
    if path.is_dir():
        return _open_folder(path, None)
    if path.exists():
        raise BadInputError(f"{model}: not a folder; give the folder that holds config.json")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise BadInputError(f"{model}: no such folder")
    try:
        fetched = snapshot_download(model, allow_patterns=_HUB_FILES)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BadInputError(f"{model}: no such folder, and not on the hub: {reason}") from None
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


def load_model(checkpoint: Checkpoint) -> torch.nn.Module:
    """Loads the weights, as float32, for inference.

    Raises:
        BadInputError: weights are missing, damaged or not those of the configuration.
    """
    with quiet():
        try:
            model, info = AutoModel.from_pretrained(
                checkpoint.path,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
                **checkpoint.family.load_options,
            )
        except Exception as error:
            # transformers lets errors of its file readers through, which share no base.
            reason = str(error).strip().split("\n")[0]
            raise BadInputError(
                f"{checkpoint.path}: its weights cannot be loaded ({reason}); "
                "model.safetensors must be there and whole"
            ) from None
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise BadInputError(
            f"{checkpoint.path}: {len(wrong)} weights of the architecture are not in the "
            f"checkpoint, {wrong[0]} first; it is damaged or of another model"
        )
    module: torch.nn.Module = model.eval()
    return module


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes ``tokenizer.json`` and its companions into ``folder``.

    Raises:
        BadInputError: there is no tokenizer that the ``tokenizers`` package can read.
    """
    folder.mkdir()
    source = checkpoint.path
    if not (source / "tokenizer.json").is_file():
        source = folder / "converted"
        with quiet():
            try:
                tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=False)
                tokenizer.save_pretrained(source)
            except Exception as error:
                # As above: whatever a converter raises.
                raise _no_tokenizer(checkpoint.path, str(error)) from None
        if not (source / "tokenizer.json").is_file():
            raise _no_tokenizer(checkpoint.path, "it has no fast form")
    for name in ("tokenizer.json", *_TOKENIZER_FILES):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    if source.parent == folder:
        for file in source.iterdir():
            file.unlink()
        source.rmdir()


def _no_tokenizer(path: Path, reason: str) -> BadInputError:
    short = reason.strip().split("\n")[0]
    return BadInputError(f"{path}: has no tokenizer.json, and none can be made of it ({short})")


def tokenizer_limit(checkpoint: Checkpoint) -> int | None:
    """``model_max_length`` of the tokenizer, in tokens; None where it is not known."""
    file = checkpoint.path / "tokenizer_config.json"
    if not file.is_file():
        return None
    try:
        limit = json.loads(file.read_text("utf-8")).get("model_max_length")
    except (ValueError, AttributeError) as error:
        raise BadInputError(f"{file}: not a JSON object ({error})") from None
    return int(limit) if isinstance(limit, int | float) and 0 < limit < _SANE_LENGTH else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers and the exporter from writing to the terminal."""
    level = logging.root.manager.disable
    bars = transformers.utils.logging.is_progress_bar_enabled()
    logging.disable(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
