"""Merges a PEFT adapter into its base model: through ``peft``, which trained it."""

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from edge_runtime.contract.errors import BadInputError
from export.wording import listed, one_line

from .folders import ADAPTER_CONFIG, CONFIG, json_object, refuse_pointers
from .quiet import quiet
from .weight_files import read_header

_WEIGHTS = "adapter_model.safetensors"
_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}
_HEAD = re.compile(r"\.(score|classifier|out_proj)\.(\w+\.)*weight$")
_MORE_TEMPLATES = "additional_chat_templates"
_TOKENIZER_FILES = (".json", ".txt", ".model", ".jinja")
_MAX_DIFFERENCE = 1e-3


def is_adapter(folder: Path) -> bool:
    """Tells whether a folder holds an adapter, alone or beside a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Finds the base model of an adapter: the one beside it, or that which it names.

    Raises:
        BadInputError: the adapter is none of PEFT's, cannot be merged, or ``peft`` is absent;
            says what to type.
    """
    file = folder / ADAPTER_CONFIG
    settings = json_object(file)
    beside = (folder / CONFIG).is_file()
    if "peft_type" not in settings:
        raise BadInputError(
            f"{folder}: is an adapter that MLX or another tool trained, not a model; merge it with "
            f"that tool (MLX: mlx_lm.fuse --model BASE --adapter-path {folder}) and export the "
            "result"
        )
    base = str(folder) if beside else settings.get("base_model_name_or_path")
    what = f"{folder}: {'has a' if beside else 'is a'} PEFT adapter ({settings['peft_type']})"
    if not isinstance(base, str) or not base:
        raise BadInputError(f"{what}, and {file} does not name base_model_name_or_path; add it")
    if importlib.util.find_spec("peft") is None:
        place = " beside a model" if beside else f" for {base}, not a model"
        leave = f", or move {ADAPTER_CONFIG} away if the weights contain it" if beside else ""
        raise BadInputError(
            f"{what}{place}; to have it merged: pip install 'pacplus[peft]', then the same command "
            f"again{leave}"
        )
    if not (folder / _WEIGHTS).is_file():
        raise BadInputError(
            f"{folder}: has {ADAPTER_CONFIG} and no {_WEIGHTS}; download it, or, where it is a "
            "pickle (.bin), load it with peft and save_pretrained() it"
        )
    refuse_pointers(folder, [folder / _WEIGHTS])
    local = folder / base
    return str(local) if not Path(base).is_dir() and local.is_dir() else base


def merge_adapter(folder: Path, base: Path, output: Path) -> str:
    """Writes base and adapter as one plain checkpoint.

    Args:
        folder: the adapter.
        base: its base model, already checked; may be ``folder``.
        output: an empty folder.

    Returns:
        A line that says what was merged.

    Raises:
        BadInputError: the two do not fit, or this kind of adapter cannot be merged.
    """
    import peft

    settings = json_object(folder / ADAPTER_CONFIG)
    kind = getattr(transformers, _class_name(settings, base))
    labels = _labels(folder) if "Classification" in kind.__name__ else {}
    bare = output / "base"
    _link_model(base, bare)
    with quiet():
        try:
            model = kind.from_pretrained(
                bare, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **labels
            ).eval()
            wrapped = peft.PeftModel.from_pretrained(model, str(folder)).eval()
            _check_complete(folder, peft.get_peft_model_state_dict(wrapped))
            before = _answer(wrapped)
            merged = wrapped.merge_and_unload()
        except BadInputError:
            raise
        except Exception as error:
            # peft raises what it likes.
            raise BadInputError(
                f"{folder}: peft cannot merge this {settings['peft_type']} adapter into {base} "
                f"({one_line(error)}); merge it where it was trained, and export the result"
            ) from None
        difference = float((_answer(merged) - before).abs().max() / before.abs().max().clamp(1.0))
        if not difference <= _MAX_DIFFERENCE:
            raise BadInputError(
                f"{folder}: merged into {base} it answers otherwise than beside it (by "
                f"{difference:.2g}); merge it where it was trained, and export the result"
            )
        merged.save_pretrained(output)
    shutil.rmtree(bare)
    own = (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
    _copy_tokenizer(folder if own else base, output)
    return f"adapter {folder.resolve().name} ({settings['peft_type']}) merged into the weights"


def architecture_of(fields: dict[str, Any]) -> str:
    """Finds the class of transformers that ``config.json`` names; empty if it names none."""
    names = fields.get("architectures")
    own = names[0] if isinstance(names, list) and names else None
    return own if isinstance(own, str) and hasattr(transformers, own) else ""


def _class_name(settings: dict[str, Any], base: Path) -> str:
    name = _CLASSES.get(str(settings.get("task_type")))
    if name is not None:
        return name
    return architecture_of(json_object(base / CONFIG)) or "AutoModel"


def _link_model(base: Path, bare: Path) -> None:
    """Links all but adapters: transformers loads one that lies beside, by itself."""
    bare.mkdir()
    for path in base.iterdir():
        if path.is_file() and not path.name.startswith("adapter_"):
            (bare / path.name).symlink_to(path.resolve())


def _copy_tokenizer(source: Path, output: Path) -> None:
    for path in source.iterdir():
        other = path.name == CONFIG or path.name.startswith(("adapter_", "model.", "generation_"))
        if path.suffix in _TOKENIZER_FILES and path.is_file() and not other:
            shutil.copyfile(path, output / path.name)
    if (source / _MORE_TEMPLATES).is_dir():
        shutil.copytree(source / _MORE_TEMPLATES, output / _MORE_TEMPLATES)


def _labels(folder: Path) -> dict[str, int]:
    """Reads the count of classes off the head that the adapter brings along."""
    tensors = read_header(folder / _WEIGHTS)
    heads = [tensor.shape[0] for name, tensor in tensors.items() if _HEAD.search(name)]
    return {"num_labels": heads[-1]} if heads else {}


def _check_complete(folder: Path, taken: dict[str, torch.Tensor]) -> None:
    """Refuses an adapter of which peft has left something out, or made something up.

    A pair of matrices that the file lacks does no harm as long as the second one is zero.
    """
    stored = read_header(folder / _WEIGHTS).keys()
    idle = {name for name, tensor in taken.items() if "lora_B" in name and not tensor.any()}
    idle |= {name.replace("lora_B", "lora_A") for name in idle}
    for names, fate in ((stored - taken.keys(), "unused"), (taken.keys() - stored - idle, "new")):
        if names:
            raise BadInputError(
                f"{folder}: {listed(sorted(names))} of the adapter are {fate} in this base "
                "model; give the base model that it was trained on"
            )


def _answer(model: Any) -> torch.Tensor:
    ids = torch.arange(1, 9)[None] % model.config.vocab_size
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        output = model(input_ids=ids, **more)
    answer: torch.Tensor = output.logits if "logits" in output else output.last_hidden_state
    return answer
