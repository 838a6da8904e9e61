"""Pieces were compared with llama.cpp's own tokenizer on the same files (build 11549)."""

from __future__ import annotations

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from edge_runtime.contract.errors import BadInputError
from export.gguf.reader import open_gguf
from export.gguf.tokenizer import read_tokenizer
from tests.export.gguf.files import TEMPLATE, language_model, write_gguf

_BYTES = sorted(ByteLevel.alphabet())
_MERGED = ["ĠĠ", "12", "Ġa", "of", "off", "'S"]
_WHOLE = ["<s>", "</s>", "<think>", "office"]
BYTE_LEVEL = {
    "model": "gpt2",
    "tokens": [*_BYTES, *_MERGED, *_WHOLE],
    "token_type": [*[1] * 262, 3, 3, 4, 1],
    "merges": ["Ġ Ġ", "1 2", "Ġ a", "o f", "of f", "' S"],
    "bos_token_id": 262,
    "eos_token_id": 263,
    "padding_token_id": None,
}
_PIECES = ["▁", "a", "b", "▁a", "ab", "▁ab", "▁▁"]
SENTENCEPIECE = {
    "model": "llama",
    "tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_PIECES],
    "token_type": [2, 3, 3, *[6] * 256, *[1] * len(_PIECES)],
    "scores": [0.0] * 259 + [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0],
    "merges": None,
    "unknown_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "padding_token_id": None,
}


@pytest.fixture(scope="module")
def model():
    return language_model("llama")


@pytest.fixture
def tokenizer_of(tmp_path, model):
    def read(kind, keys=None, **changes):
        file = tmp_path / "m.gguf"
        write_gguf(file, model, tokenizer=kind | changes, keys=keys)
        return read_tokenizer(open_gguf(file))[0]

    return read


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["a", "ĠĠ", "1", "2", "'", "S", "Ġ", "off", "i", "c", "e"]),
        ("gpt-2", ["a", "Ġ", "Ġ", "12", "'", "S", "Ġ", "off", "i", "c", "e"]),
        ("qwen2", ["a", "Ġ", "Ġ", "1", "2", "'S", "Ġ", "off", "i", "c", "e"]),
        ("llama-bpe", ["<s>", "a", "Ġ", "Ġ", "12", "'S", "Ġ", "off", "i", "c", "e"]),
        (None, ["a", "Ġ", "Ġ", "12", "'", "S", "Ġ", "off", "i", "c", "e"]),
    ],
)
def test_text_is_cut_as_the_file_says(tokenizer_of, pre, pieces):
    assert tokenizer_of(BYTE_LEVEL, pre=pre).tokenize(
        "a  12'S office", add_special_tokens=True
    ) == (pieces)


@pytest.mark.parametrize(("pre", "pieces"), [("llama-bpe", ["office"]), ("qwen2", ["off", *"ice"])])
def test_a_word_that_is_a_token_is_kept_whole_where_llama_cpp_does(tokenizer_of, pre, pieces):
    assert tokenizer_of(BYTE_LEVEL, pre=pre).tokenize("office") == pieces


def test_control_tokens_and_tokens_of_its_makers_are_found_in_texts(tokenizer_of):
    tokenizer = tokenizer_of(BYTE_LEVEL, pre="qwen2")
    assert tokenizer.tokenize("a<think>a</s>") == ["a", "<think>", "a", "</s>"]
    assert tokenizer.all_special_tokens == ["<s>", "</s>"]


@pytest.mark.parametrize("kind", [BYTE_LEVEL | {"pre": "qwen2"}, SENTENCEPIECE])
@pytest.mark.parametrize(("bos", "eos"), [(False, True), (True, False), (True, True)])
def test_bos_and_eos_are_put_as_the_file_says(tokenizer_of, kind, bos, eos):
    tokenizer = tokenizer_of(kind, add_bos_token=bos, add_eos_token=eos, add_space_prefix=False)
    pieces = ["<s>"] * bos + ["a"] + ["</s>"] * eos
    assert tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"]) == pieces
    assert tokenizer.convert_ids_to_tokens(tokenizer("a", "a")["input_ids"]) == pieces * 2


@pytest.mark.parametrize(
    ("prefix", "pieces"),
    [
        (None, ["<s>", "▁ab", "</s>", "▁▁", "b", "<0xC3>", "<0xA9>"]),
        (False, ["<s>", "ab", "</s>", "▁", "b", "<0xC3>", "<0xA9>"]),
    ],
)
def test_sentencepiece_gets_a_space_before_unless_the_file_says_otherwise(
    tokenizer_of, prefix, pieces
):
    tokenizer = tokenizer_of(SENTENCEPIECE, add_space_prefix=prefix)
    ids = tokenizer("ab</s> bé")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == pieces
    assert tokenizer.decode(tokenizer("ab bé")["input_ids"], skip_special_tokens=True) == "ab bé"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (BYTE_LEVEL, {"pre": "some-day"}, r"tokenizer\.ggml\.pre is 'some-day'"),
        (BYTE_LEVEL, {"model": "t5"}, r"tokenizer\.ggml\.model is 't5'"),
        (BYTE_LEVEL, {"model": None}, r"tokenizer\.ggml\.model is None"),
        (BYTE_LEVEL, {"tokens": None}, r"has no tokenizer"),
        (BYTE_LEVEL, {"tokens": ["a", "b", "a"]}, r"has 'a' twice"),
        (BYTE_LEVEL, {"merges": ["x yz"]}, r"merges do not go with its tokens"),
        (BYTE_LEVEL, {"token_type": [1, 1]}, r"token_type has 2 entries for 266 tokens"),
        (BYTE_LEVEL, {"add_space_prefix": True}, r"add_space_prefix is not read"),
        (BYTE_LEVEL, {"add_bos_token": True, "bos_token_id": None}, r"no tokenizer\.ggml\.bos_"),
        (SENTENCEPIECE, {"scores": [0.0]}, r"has 1 scores for 266 tokens"),
    ],
)
def test_what_cannot_be_read_as_llama_cpp_does_is_refused(tokenizer_of, kind, changes, message):
    with pytest.raises(BadInputError, match=message):
        tokenizer_of(kind, **changes)


@pytest.mark.parametrize(("pre", "count"), [(None, 1), ("qwen2", 0)])
def test_a_file_that_does_not_say_how_text_is_cut_gets_a_note(tmp_path, model, pre, count):
    file = write_gguf(tmp_path / "m.gguf", model, tokenizer=BYTE_LEVEL | {"pre": pre})
    _, notes = read_tokenizer(open_gguf(file))
    assert [note for note in notes if "tokenizer.ggml.pre" in note] == list(notes)
    assert len(notes) == count


def test_chat_templates_are_kept_with_their_names(tokenizer_of):
    assert tokenizer_of(BYTE_LEVEL).chat_template == TEMPLATE
    keys = {"tokenizer.chat_template.tool_use": "{{ tools }}"}
    both = {"default": TEMPLATE, "tool_use": "{{ tools }}"}
    assert tokenizer_of(BYTE_LEVEL, keys).chat_template == both
