"""Writing tiny GGUF files as llama.cpp's convert_hf_to_gguf.py does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.models import VOCAB_SIZE, config_of

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
ARCHITECTURES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "llama": "llama",
    "phi": "phi2",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
_LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.dense": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_OTHERS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}


def language_model(family: str, **changes: Any) -> Any:
    """A tiny model with random weights, those of norms and biases too."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.2 * torch.randn_like(parameter)
            parameter.copy_(noise if parameter.ndim == 2 else parameter + noise)
    return model


def logits_of(model: Any) -> Any:
    """Logits of 24 tokens."""
    import torch

    ids = np.random.default_rng(0).integers(4, VOCAB_SIZE, (1, 24))
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits


def loaded(path: Path) -> Any:
    """The language model as the export loads it."""
    from transformers import AutoModelForCausalLM

    from export.checkpoint.quiet import quiet
    from export.gguf.config import read_config
    from export.gguf.reader import open_gguf
    from export.gguf.weights import load_weights

    file = open_gguf(path)
    with quiet():
        return load_weights(file, read_config(file), AutoModelForCausalLM)[0].eval()


def metadata_of(config: Any) -> dict[str, Any]:
    """Keys of the architecture, without its name."""
    if config.model_type == "gpt2":
        return {
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "block_count": config.n_layer,
            "feed_forward_length": 4 * config.n_embd,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    heads = config.num_attention_heads
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if config.model_type == "phi":
        channels = config.hidden_size // heads
        turned = int(rope["partial_rotary_factor"] * channels)
        return found | {
            "attention.layer_norm_epsilon": config.layer_norm_eps,
            "rope.dimension_count": turned,
        }
    found["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if config.model_type in ("gemma2", "gemma3_text"):
        found["attention.sliding_window"] = config.sliding_window
    if config.model_type == "gemma2":
        found["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        found["final_logit_softcapping"] = float(config.final_logit_softcapping)
    return found


TOKENIZER: dict[str, Any] = {
    "model": "gpt2",
    "tokens": [
        *("<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"),
        *(chr(ord("!") + index) for index in range(VOCAB_SIZE - 5)),
        "()",
    ],
    "token_type": [3] * 4 + [1] * (VOCAB_SIZE - 4),
    "merges": ["( )"],
    "bos_token_id": 2,
    "eos_token_id": 3,
    "padding_token_id": 0,
}


def tensors_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors under llama.cpp's names, with its order of channels and its norms."""
    config, found = model.config, {}
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        path, kind = name.rsplit(".", 1)
        parts = path.split(".")
        if len(parts) > 3 and parts[2].isdigit():
            inner = ".".join(parts[3:])
            stored = _LAYERS[inner]
            if config.model_type.startswith(("gemma2", "gemma3")) and inner.startswith("post_att"):
                stored = "post_attention_norm"
            stored = f"blk.{parts[2]}.{stored}.{kind}"
        else:
            stored = f"{_OTHERS[path]}.{kind}"
        if stored == "output.weight" and config.tie_word_embeddings:
            continue
        if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        if config.model_type == "gpt2" and ".c_" in name and values.ndim == 2:
            values = values.T
        if config.model_type == "llama" and ".q_proj." in name:
            values = _permuted(values, config.num_attention_heads)
        if config.model_type == "llama" and ".k_proj." in name:
            values = _permuted(values, config.num_key_value_heads)
        found[stored] = np.ascontiguousarray(values)
    return found


def _permuted(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def write_gguf(
    path: Path,
    model: Any,
    *,
    architecture: str = "",
    keys: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    types: dict[str, Any] | None = None,
) -> Path:
    """Writes a model and a tokenizer.

    Args:
        path: of the file.
        model: of transformers.
        architecture: llama.cpp's name; by default that of the model.
        keys: further keys; the architecture is put before a dot. None takes one out.
        tokenizer: the same below ``tokenizer.ggml``.
        tensors: further tensors; None takes one out.
        types: quantization of tensors, by name.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    config = model.config
    architecture = architecture or ARCHITECTURES[config.model_type]
    writer = GGUFWriter(path, architecture)
    metadata = {f"{architecture}.{key}": value for key, value in metadata_of(config).items()}
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in TOKENIZER.items()}
    metadata["tokenizer.chat_template"] = TEMPLATE
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in (tokenizer or {}).items()}
    for key, value in (keys or {}).items():
        metadata[f"{architecture}{key}" if key.startswith(".") else key] = value
    for key, value in metadata.items():
        if value is not None:
            _add(writer, key, value)
    for name, values in {**tensors_of(model), **(tensors or {})}.items():
        if values is None:
            continue
        kind = (types or {}).get(name)
        if kind is None:
            writer.add_tensor(name, np.asarray(values))
        else:
            kind = GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
