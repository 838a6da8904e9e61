"""Tiny models with random weights and a real ``tokenizer.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2", "modernbert")
DECODERS = (
    *("gpt2", "opt", "llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3_text", "phi"),
)
ENCODER_DECODERS = ("t5", "flan-t5", "mt5", "bart")
FAMILIES = (*ENCODERS, *DECODERS, *ENCODER_DECODERS)
VOCAB_SIZE = 64
LAYERS = 3
"""Of BERT; tracing takes long, so the others have two in a stack."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WORDS = (
    *("the", "a", "cat", "dog", "film", "was", "is", "not", "very", "good", "bad"),
    *("play", "music", "stop", "rain", "in", "at", "and", "it"),
)


def tiny_model_dir(tmp_path: Path, family: str, *, seed: int = 0, **changes: Any) -> Path:
    """Writes a tiny checkpoint of ``family``, head included, and returns its folder.

    Weights are spread wider than at initialization, so that attention is not uniform.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    folder = tmp_path / f"tiny-{family}"
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    kind = {"causal-lm": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
    model = kind.get(widest_task(family), AutoModel).from_config(config_of(family, **changes))
    with torch.no_grad():
        for name, parameter in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("bias") and parameter.numel() > 1:
                parameter.normal_(0, 0.1)
            elif parameter.ndim == 2 and parameter.is_floating_point():
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def tiny_tokenizer() -> Tokenizer:
    """Whole words, framed by CLS and SEP; what it does not know is ``[UNK]``."""
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *_WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def widest_task(family: str) -> str:
    """The task that exports most of a model."""
    if family in ENCODERS:
        return "classification"
    return "causal-lm" if family in DECODERS else "seq2seq"


def config_of(family: str, **changes: Any) -> Any:
    """A tiny configuration; ``flan-t5`` is a T5 with gated layers and a head of its own."""
    from transformers import AutoConfig

    model_type = "t5" if family == "flan-t5" else family
    return AutoConfig.for_model(model_type, **_COMMON, **{**_SHAPES.get(family, _SHAPE), **changes})


_COMMON = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0}
_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 80,
}
_DECODER = {**_SHAPE, "num_hidden_layers": 2, "bos_token_id": 2, "eos_token_id": 3}
_GROUPED = {**_DECODER, "num_key_value_heads": 2, "head_dim": 8}
_WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 96,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}
_SHAPES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 96,
        "max_position_embeddings": 80,
    },
    "roberta": {**_SHAPE, "num_hidden_layers": 2, "type_vocab_size": 1},
    "xlm-roberta": {**_SHAPE, "num_hidden_layers": 2, "type_vocab_size": 1},
    "electra": {**_SHAPE, "num_hidden_layers": 2, "embedding_size": 16},
    "deberta-v2": {
        **_SHAPE,
        "num_hidden_layers": 2,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "conv_kernel_size": 3,
    },
    "modernbert": {
        **_SHAPE,
        "num_hidden_layers": 2,
        "local_attention": 6,
        "layer_types": _WINDOWS["layer_types"],
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 80,
        "bos_token_id": 3,
        "eos_token_id": 3,
    },
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "max_position_embeddings": 80,
    },
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 6},
    "qwen2": {**_GROUPED, "tie_word_embeddings": True},
    "qwen3": _GROUPED,
    "gemma": _GROUPED,
    "gemma2": {
        **_GROUPED,
        **_WINDOWS,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
    },
    "gemma3_text": {**_GROUPED, **_WINDOWS, "query_pre_attn_scalar": 8},
    "phi": _DECODER,
    "t5": _T5,
    "flan-t5": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 96,
        "max_position_embeddings": 80,
        "decoder_start_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "forced_eos_token_id": None,
    },
}
