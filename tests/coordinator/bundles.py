"""Manifests, and bundles that have no more than a tokenizer."""

from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers, processors

from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FORMAT_VERSION, BlockSpec, InputSpec, Manifest, Parity

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
CLS, SEP = 2, 3
DIGEST = Sha256("ab" * 32)
IDS = InputSpec(name="input_ids", dtype="int64", kind="tokens", pad=1)
TYPES = InputSpec(name="token_type_ids", dtype="int64", kind="tokens")
MASK = InputSpec(name="attention_mask", dtype="int64", kind="mask")


def manifest(*inputs: InputSpec, max_length: int = 8) -> Manifest:
    """Of a BERT-like backbone of one block."""
    block = BlockSpec(
        name="embeddings",
        kind="embeddings",
        block_class="embeddings",
        inputs=(),
        outputs=(),
        weights=(),
        weight_bytes=0,
        flops_per_token=0,
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        model_id="tiny",
        architecture="BertModel",
        task="classification",
        quantization="none",
        hidden_size=4,
        num_heads=1,
        max_length=max_length,
        inputs=inputs,
        blocks=(block,),
        files=(),
        parity=Parity(worst=0.0, limit=1.0, per_state=(), tokens=1),
        backbone_digest=DIGEST,
    )


def bundle(folder: Path, *, style: str = "bert") -> Path:
    """A folder with a tokenizer of whole words and nothing else."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if style == "bert":
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    if style == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.enable_padding(length=20)  # as some checkpoints have it; must not matter
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder
