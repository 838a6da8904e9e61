"""Checkpoints that have no more than a configuration and a tokenizer, one of each kind."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from export.tokenizer.odd_texts import odd_texts
from tests.minilm import minilm_dir

VOCAB_SIZE = 2000
"""Embeddings that a checkpoint's configuration claims."""

STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"

_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_LLAMA = ("<unk>", "<s>", "</s>")
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SENTENCES = ("The cat sat on the mat and did not play.", "Wake me at seven, please: it's late.")
_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))

Write = Callable[[Path], None]


def checkpoint_of(folder: Path, model_type: str, **fields: Any) -> Any:
    """A checkpoint of which nothing but the configuration and the tokenizer is there."""
    from export.checkpoint.families import family_of
    from export.checkpoint.load import Checkpoint

    fields = {"model_type": model_type, "vocab_size": VOCAB_SIZE, **fields}
    (folder / "config.json").write_text(json.dumps(fields))
    config = transformers.AutoConfig.from_pretrained(folder)
    family = family_of(model_type, str(folder))
    return Checkpoint(path=folder, model_id="tiny", config=config, family=family)


def _trained(model: Any, trainer: Any, steps: Any = None, normalizer: Any = None) -> Any:
    tokenizer = Tokenizer(model)
    if steps is not None:
        tokenizer.pre_tokenizer = steps
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator([*odd_texts(), *_SENTENCES], trainer)
    return json.loads(tokenizer.to_str())["model"]


@functools.cache
def _wordpiece() -> dict[str, int]:
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=list(_BERT), show_progress=False
    )
    steps = pre_tokenizers.BertPreTokenizer()
    return dict(_trained(models.WordPiece(unk_token="[UNK]"), trainer, steps)["vocab"])


@functools.cache
def _bytes(special: tuple[str, ...]) -> dict[str, Any]:
    """Vocabulary and merges of byte-level BPE."""
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    steps = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _vocabulary(_trained(models.BPE(), trainer, steps))


@functools.cache
def _pieces(special: tuple[str, ...]) -> dict[str, Any]:
    """Vocabulary and merges of BPE as SentencePiece does it, falling back to bytes."""
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=[*special, *_BYTES], show_progress=False
    )
    normalizer = normalizers.Replace(" ", "▁")
    # Not across words, or else whole texts become tokens.
    steps = pre_tokenizers.Split("▁", "merged_with_next")
    return _vocabulary(_trained(models.BPE(byte_fallback=True), trainer, steps, normalizer))


@functools.cache
def _unigram(special: tuple[str, ...], unknown: str) -> list[tuple[str, float]]:
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    steps = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    vocabulary = _trained(models.Unigram(), trainer, steps)["vocab"]
    return [(piece, round(score, 6)) for piece, score in vocabulary]


def _vocabulary(model: dict[str, Any]) -> dict[str, Any]:
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def _saved(kind: str, vocabulary: Callable[[], Any], **options: Any) -> Write:
    """As a class of transformers writes it today."""

    def write(folder: Path) -> None:
        made = vocabulary()
        made = made if isinstance(made, dict) and "merges" in made else {"vocab": made}
        getattr(transformers, kind)(**made, **options).save_pretrained(folder)

    return write


def _files(kind: str | None, tokenizer: Callable[[], Tokenizer], **fields: Any) -> Write:
    """As older versions wrote it: everything in tokenizer.json."""

    def write(folder: Path) -> None:
        tokenizer().save(str(folder / "tokenizer.json"))
        if kind is not None:
            fields["tokenizer_class"] = kind
        if fields:
            (folder / "tokenizer_config.json").write_text(json.dumps(fields))

    return write


def _with(write: Write, **changes: Any) -> Write:
    """Sets fields of tokenizer.json."""

    def changed(folder: Path) -> None:
        write(folder)
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return changed


def _copied(source: Callable[[], Path]) -> Write:
    def write(folder: Path) -> None:
        files = list(source().glob("*token*.json"))
        assert files, f"{source()} is missing"
        for file in files:
            shutil.copy(file, folder)

    return write


def _llama_3() -> Tokenizer:
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    model = _bytes(special)
    tokenizer = Tokenizer(models.BPE(**model, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", 0)],
            ),
        ]
    )
    return tokenizer


def _llama_2() -> Tokenizer:
    """As it was converted from SentencePiece: the blank before a text by a normalizer."""
    tokenizer = Tokenizer(
        models.BPE(**_pieces(_LLAMA), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _LLAMA])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _mistral() -> Tokenizer:
    """The blank by a pre-tokenizer, before the first word only."""
    tokenizer = _llama_2()
    tokenizer.normalizer = None  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def _modernbert() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**_bytes(_BERT)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=token == "[MASK]", normalized=False) for token in _BERT]
    )
    tokenizer.add_tokens(["|||IP_ADDRESS|||", "  ", "   "])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _cased_bert() -> Tokenizer:
    """Keeps case and accents, which transformers' class would not without being told."""
    tokenizer = Tokenizer(models.WordPiece(_wordpiece(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _vocab_txt(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(_wordpiece()) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')


def _vocab_json(folder: Path) -> None:
    """With special tokens in one file, an added one in another, and an end behind each text."""
    model = _bytes(("<|endoftext|>",))
    merges = [" ".join(pair) for pair in model["merges"]]
    size = len(model["vocab"])
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges)) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({"<|user|>": size, "newword": size + 1}))
    named = {"eos_token": "<|endoftext|>", "pad_token": "<|user|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    fields = {"add_bos_token": True, "add_prefix_space": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


_GPT = functools.partial(_bytes, ("<|endoftext|>", "<|padding|>"))
_OPT = functools.partial(_bytes, ("<s>", "<pad>", "</s>", "<unk>"))
_ROBERTA_BYTES = functools.partial(_bytes, _ROBERTA)
_GEMMA = functools.partial(_pieces, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
_LLAMA_PIECES = functools.partial(_pieces, _LLAMA)
_T5 = functools.partial(_unigram, ("<pad>", "</s>", "<unk>"), "<unk>")
_XLM = functools.partial(_unigram, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "<unk>")
_DEBERTA = functools.partial(_unigram, _BERT, "[UNK]")
_ALBERT = functools.partial(_unigram, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), "<unk>")
_PADDING = {
    "strategy": {"Fixed": 16},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[PAD]",
}
_TRUNCATION = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}

KINDS: dict[str, tuple[str, Write]] = {
    "bert uncased": ("bert", _saved("BertTokenizer", _wordpiece)),
    "bert cased": ("bert", _saved("BertTokenizer", _wordpiece, do_lower_case=False)),
    "bert with accents, Chinese in words": (
        "bert",
        _saved("BertTokenizer", _wordpiece, tokenize_chinese_chars=False, strip_accents=False),
    ),
    "bert of vocab.txt": ("bert", _vocab_txt),
    "bert, cased by tokenizer.json alone": ("bert", _files(None, _cased_bert)),
    "bert, cased by both": ("bert", _files("BertTokenizerFast", _cased_bert, do_lower_case=False)),
    "bert, padded and truncated": (
        "bert",
        _with(_saved("BertTokenizer", _wordpiece), padding=_PADDING, truncation=_TRUNCATION),
    ),
    "distilbert": ("distilbert", _saved("DistilBertTokenizer", _wordpiece)),
    "electra": ("electra", _saved("ElectraTokenizer", _wordpiece)),
    "minilm": ("bert", _copied(minilm_dir)),
    "modernbert": ("modernbert", _files("PreTrainedTokenizerFast", _modernbert)),
    "albert": ("bert", _saved("AlbertTokenizer", _ALBERT)),
    "roberta": ("roberta", _saved("RobertaTokenizer", _ROBERTA_BYTES)),
    "roberta with a blank": (
        "roberta",
        _saved("RobertaTokenizer", _ROBERTA_BYTES, add_prefix_space=True),
    ),
    "xlm-roberta": ("xlm-roberta", _saved("XLMRobertaTokenizer", _XLM)),
    "deberta-v2": ("deberta-v2", _saved("DebertaV2Tokenizer", _DEBERTA)),
    "deberta-v2, lower case": (
        "deberta-v2",
        _saved("DebertaV2Tokenizer", _DEBERTA, do_lower_case=True, split_by_punct=True),
    ),
    "t5": ("t5", _saved("T5Tokenizer", _T5)),
    "mt5": ("mt5", _saved("T5Tokenizer", _T5, extra_ids=0)),
    "bart": ("bart", _saved("BartTokenizer", _ROBERTA_BYTES)),
    "gpt2": ("gpt2", _saved("GPT2Tokenizer", _GPT)),
    "gpt2 with a blank and a start": (
        "gpt2",
        _saved("GPT2Tokenizer", _GPT, add_prefix_space=True, add_bos_token=True),
    ),
    "gpt2 of vocab.json": ("gpt2", _vocab_json),
    "gpt2 that splits special tokens": (
        "gpt2",
        _saved("GPT2Tokenizer", _GPT, split_special_tokens=True),
    ),
    "opt": (
        "opt",
        _saved(
            "GPT2Tokenizer",
            _OPT,
            bos_token="</s>",
            eos_token="</s>",
            unk_token="</s>",
            pad_token="<pad>",
            add_bos_token=True,
        ),
    ),
    "phi": ("phi", _saved("CodeGenTokenizer", _GPT)),
    "gpt-neox": ("llama", _saved("GPTNeoXTokenizer", _GPT, add_eos_token=True)),
    "qwen2": ("qwen2", _saved("Qwen2Tokenizer", _GPT)),
    "qwen3 with chat tokens": (
        "qwen3",
        _saved("Qwen2Tokenizer", _GPT, additional_special_tokens=["<|im_start|>", "<|im_end|>"]),
    ),
    "llama 3": ("llama", _files("PreTrainedTokenizerFast", _llama_3)),
    "llama 3, called llama": ("llama", _files("LlamaTokenizerFast", _llama_3)),
    "llama 2 of a normalizer": ("llama", _files("PreTrainedTokenizerFast", _llama_2)),
    "llama 2, called llama": (
        "llama",
        _files("LlamaTokenizer", _llama_2, legacy=True, add_bos_token=True, add_eos_token=True),
    ),
    "llama 2, legacy": ("llama", _saved("LlamaTokenizer", _LLAMA_PIECES, legacy=True)),
    "llama 2, not legacy": (
        "llama",
        _saved("LlamaTokenizer", _LLAMA_PIECES, legacy=False, add_bos_token=True),
    ),
    "mistral": ("mistral", _files("LlamaTokenizerFast", _mistral)),
    "stories260K": ("llama", _copied(lambda: STORIES)),
    "gemma": ("gemma", _saved("GemmaTokenizer", _GEMMA, add_bos_token=True)),
    "gemma 3": ("gemma3_text", _saved("GemmaTokenizer", _GEMMA, image_token="<image>")),
}


def tiny_tokenizer_dir(folder: Path, kind: str) -> Any:
    """Writes the tokenizer of ``KINDS[kind]`` and gives its checkpoint."""
    model_type, write = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    write(folder)
    size = 40_000 if kind == "minilm" else VOCAB_SIZE
    return checkpoint_of(folder, model_type, vocab_size=size)
