"""Extracts the frozen head of a language model: from hidden states to logits."""

from typing import Any

import numpy as np
import torch

from edge_runtime.contract.errors import BadInputError, PacplusError
from edge_runtime.contract.manifest import HeadSpec
from export.checkpoint.families import Family
from export.ir.graph import Array

HEAD = "head.safetensors"

_TOLERANCE = 1e-4


def frozen_head(
    model: Any, family: Family, batch: dict[str, Array]
) -> tuple[HeadSpec, dict[str, Array]]:
    """Extracts the head of a language model and compares it with the model's own on ``batch``.

    Returns:
        The head's entry in the manifest, and its tensors: ``weight`` (vocabulary, channels)
        and, if there is one, ``bias`` (vocabulary,), both float32 views of the model's own,
        where they are contiguous.

    Raises:
        PacplusError: the model makes its logits in a way that a bundle cannot describe.
    """
    layer, config = model.get_output_embeddings(), model.config
    bias = getattr(model, family.head_bias) if family.head_bias else layer.bias
    tensors = {"weight": _array(layer.weight)}
    if bias is not None:
        tensors["bias"] = _array(bias).reshape(-1)
    # A configuration of transformers before 5.1 says it by the tie alone.
    scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    spec = HeadSpec(
        path=HEAD,
        vocab_size=len(tensors["weight"]),
        scale=config.hidden_size**-0.5 if family.head_scaled and scaled else 1.0,
        softcap=getattr(config, "final_logit_softcapping", None) or 0.0,
    )
    _check_head(model, batch, tensors, spec)
    return spec, tensors


def head_logits(hidden: Array, tensors: dict[str, Array], spec: HeadSpec) -> Array:
    """Computes cap(scale * (x W^T) + b), (..., vocabulary), of the last state (..., channels)."""
    logits: Array = spec.scale * (hidden @ tensors["weight"].T)
    if "bias" in tensors:
        logits = logits + tensors["bias"]
    return spec.softcap * np.tanh(logits / spec.softcap) if spec.softcap else logits


def _check_head(
    model: Any, batch: dict[str, Array], tensors: dict[str, Array], spec: HeadSpec
) -> None:
    fields = {name: torch.from_numpy(array) for name, array in batch.items()}
    with torch.inference_mode():
        output = model(**fields, output_hidden_states=True, use_cache=False)
    states = output.hidden_states if "hidden_states" in output else output.decoder_hidden_states
    expected = output.logits.numpy()
    logits = head_logits(states[-1].numpy(), tensors, spec)
    error = np.abs(logits - expected).max() / max(np.abs(expected).max(), 1.0)
    # Written so that NaN is refused as well.
    if not error <= _TOLERANCE:
        raise PacplusError(
            f"the exported head is off: its logits differ from PyTorch's by {error:.3g}, "
            f"the limit is {_TOLERANCE:.2g}; nothing was written"
        )


def end_tokens(model: Any) -> tuple[int, ...]:
    """Lists the configured ids that end a generated text, the generation's own first."""
    found: list[int] = []
    for config in (model.generation_config, model.config):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list | tuple) else [] if ids is None else [ids]
    return tuple(dict.fromkeys(map(int, found)))


def start_token(model: Any, where: str) -> int:
    """Finds the first decoder input of an encoder-decoder.

    Raises:
        BadInputError: the configuration does not tell it, or the vocabulary does not have it.
    """
    found = _token_setting(model, "decoder_start_token_id")
    if found is None:
        raise BadInputError(f"{where}: config.json must have decoder_start_token_id for seq2seq")
    if not 0 <= int(found) < model.config.vocab_size:
        raise BadInputError(
            f"{where}: decoder_start_token_id is {found}, but there are only "
            f"{model.config.vocab_size} embeddings; mend config.json or generation_config.json"
        )
    return int(found)


def _token_setting(model: Any, name: str) -> Any:
    found = getattr(model.generation_config, name, None)
    return getattr(model.config, name, None) if found is None else found


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().to(torch.float32).contiguous().numpy()
    return array
