"""Tells what a folder is, and what to do when it is no model that can be exported."""

import json
import re
from pathlib import Path
from typing import Any

from edge_runtime.contract.errors import BadInputError

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
GENERATION_CONFIG = "generation_config.json"

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_TEXTS = (".json", ".jinja", ".txt", ".model")
"""Endings of what is read beside weights: settings, tokenizer, chat template."""

_SHARDED_TRAINING = re.compile(
    r"zero_pp_rank_|mp_rank_|__\d+_\d+\.distcp|global_step\d|pytorch_model_fsdp"
)


def json_object(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BadInputError: it is none.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{file}: not JSON ({error}); it must be whole") from None
    if not isinstance(found, dict):
        raise BadInputError(f"{file}: not a JSON object")
    return found


def check_pointers(folder: Path) -> None:
    """Refuses files of which Git LFS has fetched the name only.

    Raises:
        BadInputError: names the first one, and says how to fetch it.
    """
    texts = [path for path in sorted(folder.iterdir()) if path.suffix in _TEXTS]
    refuse_pointers(folder, texts)


def refuse_pointers(folder: Path, files: list[Path]) -> None:
    """Refuses those of ``files`` that are pointers; as :func:`check_pointers`."""
    pointers = [path.name for path in files if _is_pointer(path)]
    if pointers:
        raise BadInputError(
            f"{folder / pointers[0]}: is a Git LFS pointer, not the file itself{_more(pointers)}; "
            f"fetch it with: git -C {folder} lfs pull"
        )


def _is_pointer(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _more(names: list[str]) -> str:
    return f" (nor are {len(names) - 1} others)" if len(names) > 1 else ""


def no_model(folder: Path) -> BadInputError:
    """Explains a folder without ``config.json``."""
    names = sorted((path.name for path in folder.iterdir()), key=_numbers_by_size)
    inside = [name for name in names if (folder / name / CONFIG).is_file()]
    ggufs = [name for name in names if name.endswith(".gguf")]
    steps = [name for name in names if _SHARDED_TRAINING.search(name)]
    if not names:
        reason = f"is empty, it has no {CONFIG}; give the folder that holds one"
    elif inside:
        reason = f"has no {CONFIG}, but {_some(inside)} has; give {folder / inside[-1]}"
    elif ggufs:
        reason = f"has no {CONFIG}, but a GGUF file; give {folder / ggufs[0]}"
    elif steps:
        reason = f"is the sharded state of a training run; {_gather(folder, names)}"
    else:
        reason = f"is no model, it has no {CONFIG}"
    return BadInputError(f"{folder}: {reason}")


def _numbers_by_size(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _some(names: list[str]) -> str:
    return names[-1] if len(names) == 1 else f"{names[-1]} (of {len(names)} folders)"


def no_weights(folder: Path, architecture: str) -> BadInputError:
    """Explains a folder with ``config.json`` and without safetensors."""
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    pickles = [name for name in pickles if not re.match(r"optimizer|scheduler|training_arg", name)]
    others = [name for name in names if name.endswith((".h5", ".msgpack", ".onnx"))]
    ggufs = [name for name in names if name.endswith(".gguf")]
    if any(_SHARDED_TRAINING.search(name) for name in names):
        reason = f"holds the sharded state of a training run; {_gather(folder, names)}"
    elif pickles:
        reason = (
            f"its weights are in {pickles[0]}, a pickle, which can run code and is not read; "
            f'convert it with: python -c "from transformers import {architecture} as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    elif ggufs:
        reason = f"has no model.safetensors, but a GGUF file; give {folder / ggufs[0]}"
    elif others:
        reason = (
            f"its weights are in {others[0]}, which is not read; save it with transformers as "
            "model.safetensors"
        )
    else:
        reason = (
            "its weights cannot be loaded: model.safetensors is missing; download it again, or "
            "convert the pickles (.bin) that there may be by save_pretrained() of transformers"
        )
    return BadInputError(f"{folder}: {reason}")


def _gather(folder: Path, names: list[str]) -> str:
    """Says what to type to make one model of a sharded training state."""
    if any("fsdp" in name or name.endswith(".distcp") for name in names):
        state = next((name for name in names if "fsdp" in name and "." not in name), "")
        source = folder / state
        return f"gather it with: accelerate merge-weights {source} OUTPUT, add its config.json"
    return (
        f"gather it with: python {folder / 'zero_to_fp32.py'} {folder} OUTPUT "
        "--safe_serialization, and add its config.json"
    )
