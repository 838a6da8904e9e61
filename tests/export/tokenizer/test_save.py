"""The tokenizer that a bundle gets. Its token ids: tests/coordinator/tokenization/test_oracle."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_runtime.contract.errors import BadInputError
from export.chat.source import read_template
from export.checkpoint.load import Checkpoint
from export.tokenizer.exact_scores import with_exact_scores
from export.tokenizer.parity import check_same
from export.tokenizer.save import save_tokenizer, tokenizer_limit
from tests.models import tiny_tokenizer
from tests.tiny_tokenizers import KINDS, checkpoint_of

BASE = 500
"""Tokens of the kind ``llama 3``."""

Change = Callable[[Path], object]


def checkpoint(
    folder: Path, kind: str, *changes: Change, of: str = "", **fields: Any
) -> Checkpoint:
    """A checkpoint with the tokenizer of a kind, and what was changed in its folder."""
    model_type, write = KINDS[kind]
    write(folder)
    for change in changes:
        change(folder)
    return checkpoint_of(folder, of or model_type, **fields)


def added(*tokens: str, special: bool = True) -> Change:
    """Adds tokens to tokenizer.json, as people do by hand."""

    def change(folder: Path) -> None:
        file = folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(file))
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(list(tokens))
        tokenizer.save(str(file))

    return change


def configured(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def written(name: str, text: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return change


def saved(found: Checkpoint, folder: Path) -> Tokenizer:
    save_tokenizer(found, folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def refusal(found: Checkpoint, folder: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        save_tokenizer(found, folder)
    assert not folder.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Ids beyond the embeddings


def test_added_tokens_without_embeddings_are_named_with_the_way_out(tmp_path):
    found = checkpoint(tmp_path, "llama 3", added("<|im_start|>", "<|im_end|>"), vocab_size=BASE)
    message = refusal(found, tmp_path / "out")
    assert f"{BASE} embeddings lack: '<|im_start|>' = 500, '<|im_end|>' = 501;" in message
    assert "remove them" in message
    assert "resize_token_embeddings" in message


def test_added_words_without_embeddings_are_refused_like_special_tokens(tmp_path):
    found = checkpoint(tmp_path, "llama 3", added("aspirin", special=False), vocab_size=BASE)
    assert "'aspirin' = 500" in refusal(found, tmp_path / "out")


def test_tokens_of_added_tokens_json_are_found_too(tmp_path):
    found = checkpoint(tmp_path, "gpt2 of vocab.json", vocab_size=BASE)
    assert "'newword' = 501" in refusal(found, tmp_path / "out")


def test_the_tokenizer_of_a_larger_model_is_refused(tmp_path):
    message = refusal(checkpoint(tmp_path, "llama 3", vocab_size=400), tmp_path / "out")
    assert re.search(r"400 embeddings lack: .* = 400, .* and 96 more; ", message)
    assert "the tokenizer that the model was trained with" in message


def test_more_embeddings_than_tokens_are_fine(tmp_path):
    found = checkpoint(tmp_path, "llama 3", added("<|im_start|>"), vocab_size=BASE + 1)
    assert save_tokenizer(found, tmp_path / "out") == ()


PADDING = {
    "named by the tokenizer": (configured(pad_token="[PAD]"), {}),
    "named by the model": (configured(), {"pad_token_id": BASE}),
}


@pytest.mark.parametrize(("change", "fields"), PADDING.values(), ids=PADDING)
def test_padding_without_an_embedding_is_left_out_and_said(tmp_path, change, fields):
    found = checkpoint(tmp_path, "llama 3", added("[PAD]"), change, vocab_size=BASE, **fields)
    [note] = save_tokenizer(found, tmp_path / "out")
    assert "'[PAD]' = 500 left out" in note
    text = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("a[PAD]b")
    assert max(text.ids) < BASE
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert "pad_token" not in config


def test_the_image_token_of_a_model_that_reads_text_only_is_left_out(tmp_path):
    image = configured(image_token="<image_soft_token>")
    found = checkpoint(tmp_path, "llama 3", added("<image_soft_token>"), image, vocab_size=BASE)
    assert "'<image_soft_token>' = 500 left out" in save_tokenizer(found, tmp_path / "out")[0]


NEEDED = {
    "a chat template writes it": configured(pad_token="[PAD]", chat_template="{{ pad_token }}"),
    "a chat template has it": configured(pad_token="[PAD]", chat_template="a[PAD]"),
    "it also ends texts": configured(pad_token="[PAD]", eos_token="[PAD]"),
}


@pytest.mark.parametrize("change", NEEDED.values(), ids=NEEDED)
def test_padding_that_texts_need_is_refused(tmp_path, change):
    found = checkpoint(tmp_path, "llama 3", added("[PAD]"), change, vocab_size=BASE)
    assert "'[PAD]' = 500" in refusal(found, tmp_path / "out")


def test_tokens_that_only_transformers_adds_are_left_out(tmp_path):
    """GPT2Tokenizer has an <|endoftext|> of its own, which this vocabulary has not."""
    found = checkpoint(
        tmp_path,
        "llama 3",
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        of="gpt2",
        vocab_size=BASE,
    )
    assert "'<|endoftext|>' = 500 left out" in " ".join(save_tokenizer(found, tmp_path / "out"))


# What is written


def test_where_transformers_differs_from_tokenizer_json_it_is_followed_and_said(tmp_path):
    found = checkpoint(tmp_path, "bert, cased by tokenizer.json alone")
    [note] = save_tokenizer(found, tmp_path / "out")
    assert "as transformers' BertTokenizer; tokenizer.json alone reads 'Hello world'" in note
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("ÉLAN").ids == tokenizer.encode("elan").ids


def test_a_tokenizer_of_another_kind_than_its_class_is_read_as_it_is_and_said(tmp_path):
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    written("tokenizer_config.json", '{"tokenizer_class": "BertTokenizer"}')(tmp_path)
    found = checkpoint_of(tmp_path, "bert")
    [note] = save_tokenizer(found, tmp_path / "out")
    assert "BertTokenizer is for WordPiece, not for WordLevel" in note
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("the cat").tokens == ["[CLS]", "the", "cat", "[SEP]"]


@pytest.mark.parametrize("model_type", ["bert", "qwen2"])
def test_a_file_that_names_no_class_need_not_be_of_the_usual_one(tmp_path, model_type):
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert save_tokenizer(checkpoint_of(tmp_path, model_type), tmp_path / "out") == ()
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("the cat").tokens == ["[CLS]", "the", "cat", "[SEP]"]


def test_a_token_that_transformers_moves_is_said(tmp_path):
    """Ids of added tokens follow the vocabulary's; what a file says of a gap is ignored."""

    def leave_a_gap(folder):
        file = folder / "tokenizer.json"
        fields = json.loads(file.read_text())
        fields["added_tokens"].append(fields["added_tokens"][0] | {"id": 900, "content": "<far>"})
        file.write_text(json.dumps(fields))

    [note] = save_tokenizer(checkpoint(tmp_path, "llama 3", leave_a_gap), tmp_path / "out")
    assert "'<far>' as 500, though files say 900" in note


def test_padding_and_truncation_within_the_file_have_no_effect(tmp_path):
    tokenizer = saved(checkpoint(tmp_path, "bert, padded and truncated"), tmp_path / "out")
    assert (tokenizer.padding, tokenizer.truncation) == (None, None)


TEMPLATES = {
    "a file of its own": [written("chat_template.jinja", "main")],
    "the configuration": [configured(chat_template="main")],
    "several in the configuration": [
        configured(chat_template=[{"name": n, "template": n} for n in ("tool_use", "default")])
    ],
    "a folder": [
        written("chat_template.jinja", "default"),
        written("additional_chat_templates/tool_use.jinja", "tool_use"),
    ],
    "the file of a processor": [written("chat_template.json", '{"chat_template": "main"}')],
}


@pytest.mark.parametrize("changes", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_template_is_kept_wherever_it_was(tmp_path, changes):
    save_tokenizer(checkpoint(tmp_path, "llama 3", *changes), tmp_path / "out")
    template = read_template(tmp_path / "out")
    assert template is not None
    assert (template.source, template.tool_use) in [("main", ""), ("default", "tool_use")]


def test_a_chat_template_cannot_be_written_elsewhere(tmp_path):
    named = configured(chat_template=[{"name": "../../evil", "template": ""}])
    assert "evil" in refusal(checkpoint(tmp_path, "llama 3", named), tmp_path / "out")


def test_special_tokens_are_those_of_whatever_file_names_them(tmp_path):
    save_tokenizer(checkpoint(tmp_path, "gpt2 of vocab.json"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (config["eos_token"], config["pad_token"]) == ("<|endoftext|>", "<|user|>")


@pytest.mark.parametrize(("kind", "size", "said"), [("bert cased", 1, 1), ("deberta-v2", 0, None)])
def test_the_number_of_token_types_is_kept(tmp_path, kind, size, said):
    save_tokenizer(checkpoint(tmp_path, kind, type_vocab_size=size), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config.get("num_token_types") == said


def test_scores_are_read_back_bit_by_bit():
    """The package misreads one in seven; ties between two ways to split depend on it."""
    scores = [0.0, *np.random.default_rng(0).uniform(-16, 0, 300).tolist()]
    model = {"type": "Unigram", "unk_id": 0, "vocab": [[f"p{i}", s] for i, s in enumerate(scores)]}
    text = json.dumps({"version": "1.0", "added_tokens": [], "model": model})

    def misread(text: str) -> int:
        found = json.loads(Tokenizer.from_str(text).to_str())["model"]["vocab"]
        return sum(read != score for (_, read), score in zip(found, scores, strict=True))

    assert misread(text) > 20
    assert misread(with_exact_scores(text)) <= 1


def test_the_limit_may_have_its_old_name(tmp_path):
    found = checkpoint(tmp_path, "llama 3", configured(max_len=77))
    assert tokenizer_limit(found) == 77


# What is refused


def test_a_tokenizer_that_does_more_than_the_file_says_is_refused(tmp_path):
    import transformers

    KINDS["bert uncased"][1](tmp_path)
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    backend = Tokenizer.from_str(oracle.backend_tokenizer.to_str())
    check_same(backend, oracle, (), "model")
    backend.normalizer = None  # type: ignore[assignment]
    with pytest.raises(BadInputError, match=r"^model: .* transformers' BertTok"):
        check_same(backend, oracle, (), "model")


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path):
    slow = written("tokenizer_config.json", '{"tokenizer_class": "ByT5Tokenizer"}')
    slow(tmp_path)
    message = refusal(checkpoint_of(tmp_path, "t5"), tmp_path / "out")
    assert message.endswith("none can be made of it (ByT5Tokenizer has no fast form)")


def test_a_slow_tokenizer_is_not_replaced_by_a_file_that_says_otherwise(tmp_path):
    slow = written("tokenizer_config.json", '{"tokenizer_class": "ByT5Tokenizer"}')
    assert "ByT5Tokenizer makes other" in refusal(
        checkpoint(tmp_path, "t5", slow), tmp_path / "out"
    )


@pytest.mark.parametrize("model_type", ["bert", "t5"])
def test_a_folder_without_a_tokenizer_gets_no_empty_one(tmp_path, model_type):
    message = refusal(checkpoint_of(tmp_path, model_type), tmp_path / "out")
    assert "has no tokenizer.json" in message
    assert "vocabulary" in message


def test_a_sentencepiece_file_alone_asks_for_the_package_that_reads_it(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    written("tokenizer.model", "no model")(tmp_path)
    message = refusal(checkpoint_of(tmp_path, "llama"), tmp_path / "out")
    assert "pip install sentencepiece protobuf" in message


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ['{"added', "[1]"])
def test_the_file_that_is_damaged_is_named(tmp_path, name, text):
    found = checkpoint(tmp_path, "bert cased", written(name, text))
    assert refusal(found, tmp_path / "out").startswith(f"{tmp_path / name}: not ")


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path):
    found = checkpoint(
        tmp_path,
        "llama 3",
        written("own.py", "raise SystemExit"),
        configured(tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "own.Own"]}),
    )
    [note] = save_tokenizer(found, tmp_path / "out")
    assert "tokenizer.json as it is" in note
    assert "not run" in note
