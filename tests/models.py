"""Tiny models with random weights and a real ``tokenizer.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

FAMILIES = ("bert", "roberta", "distilbert")
VOCAB_SIZE = 64
LAYERS = 3

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WORDS = (
    *("the", "a", "cat", "dog", "film", "was", "is", "not", "very", "good", "bad"),
    *("play", "music", "stop", "rain", "in", "at", "and", "it"),
)


def tiny_model_dir(tmp_path: Path, family: str, *, seed: int = 0) -> Path:
    """Writes a tiny checkpoint of ``family`` and returns its folder.

    Weights are spread wider than at initialisation, so that attention is not uniform.
    """
    import torch
    from transformers import AutoModel

    folder = tmp_path / f"tiny-{family}"
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = AutoModel.from_config(_config(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
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


def _config(family: str) -> Any:
    from transformers import BertConfig, DistilBertConfig, RobertaConfig

    if family == "distilbert":
        return DistilBertConfig(
            vocab_size=VOCAB_SIZE,
            dim=32,
            n_layers=LAYERS,
            n_heads=4,
            hidden_dim=96,
            max_position_embeddings=80,
        )
    shape = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 80,
    }
    if family == "roberta":
        return RobertaConfig(pad_token_id=0, type_vocab_size=1, **shape)
    return BertConfig(**shape)
