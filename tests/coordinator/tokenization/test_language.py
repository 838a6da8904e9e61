"""What is counted is exactly what is to be learnt, whatever the texts and the tokenizer."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from coordinator.data import Completions, Conversations, Documents, Transformations
from coordinator.tokenization import LanguageTokenizer, TokenizedLanguage
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import InputSpec, Manifest
from edge_runtime.contract.sample import Ragged, sample_keys
from export.chat.conversation import Conversation
from tests.coordinator.bundles import DIGEST, manifest

FILE = "data.jsonl"
BOS, EOS, START, END = 0, 1, 2, 3
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
ALPHABET = "abcdé \nQA:"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def decoder(max_length: int = 64, **changes: Any) -> Manifest:
    """Of a decoder-only language model."""
    ids = InputSpec(name="input_ids", dtype="int64", kind="tokens", stream="decoder")
    mask = InputSpec(name="attention_mask", dtype="int64", kind="mask", stream="decoder")
    return _with_streams(("decoder",), ids, mask, max_length=max_length, **changes)


def encoder_decoder(max_length: int = 64, **changes: Any) -> Manifest:
    """Of a sequence-to-sequence model."""
    specs = (
        InputSpec(name="input_ids", dtype="int64", kind="tokens", pad=7),
        InputSpec(name="attention_mask", dtype="int64", kind="mask"),
        InputSpec(name="decoder_input_ids", dtype="int64", kind="tokens", stream="decoder"),
        InputSpec(name="decoder_attention_mask", dtype="int64", kind="mask", stream="decoder"),
    )
    changes = {"decoder_start_token_id": START, **changes}
    return _with_streams(("encoder", "decoder"), *specs, max_length=max_length, **changes)


def _with_streams(streams: Any, *specs: InputSpec, max_length: int, **changes: Any) -> Manifest:
    plain = manifest(*specs, max_length=max_length)
    blocks = tuple(dataclasses.replace(plain.blocks[0], stream=stream) for stream in streams)
    changes = {"eos_token_ids": (EOS,), **changes}
    return dataclasses.replace(plain, blocks=blocks, **changes)


def llama(folder: Path) -> Path:
    """Letters; a blank is put before every text, ``<s>`` before that; words may be merged."""
    letters = [*SPECIAL, "<unk>", "▁", *ALPHABET.replace(" ", ""), "▁a", "bc"]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("▁", "a"), ("b", "c")], unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return _saved(folder, tokenizer)


def gpt(folder: Path, *, prefix: bool = False) -> Path:
    """Bytes; no token around a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return _saved(folder, tokenizer)


def bart(folder: Path) -> Path:
    """Words between ``<s>`` and ``</s>``."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "<unk>", *"abcd"])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return _saved(folder, tokenizer)


def _saved(folder: Path, tokenizer: tokenizers.Tokenizer) -> Path:
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(5)  # as some checkpoints have it; must not matter
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {
        "llama": llama(tmp_path_factory.mktemp("a") / "llama"),
        "gpt": gpt(tmp_path_factory.mktemp("b") / "gpt"),
        "gpt-prefix": gpt(tmp_path_factory.mktemp("c") / "gpt", prefix=True),
        "bart": bart(tmp_path_factory.mktemp("d") / "bart"),
    }
    for folder in made.values():
        (folder / "tokenizer" / "chat_template.jinja").write_text(CHATML)
    return made


def places(lines: int) -> tuple[str, ...]:
    return tuple(f"{FILE}, line {number}" for number in range(1, lines + 1))


def completions(*pairs: tuple[str, str]) -> Completions:
    return Completions(
        prompts=tuple(prompt for prompt, _ in pairs),
        completions=tuple(completion for _, completion in pairs),
        places=places(len(pairs)),
    )


def documents(*texts: str) -> Documents:
    return Documents(texts=texts, places=places(len(texts)))


def chats(*conversations: tuple[dict[str, str], ...]) -> Conversations:
    made = tuple(Conversation.of(*messages) for messages in conversations)
    return Conversations(conversations=made, places=places(len(conversations)))


def ids(result: TokenizedLanguage, row: int = 0) -> list[int]:
    return result.samples.inputs["input_ids"][row].tolist()


def counted(result: TokenizedLanguage, row: int = 0) -> list[int]:
    return [target for target in result.targets[row].tolist() if target >= 0]


def check_aligned(result: TokenizedLanguage) -> None:
    """The target of a token is the id behind it, or none."""
    assert len(result.targets) == len(result.samples) == len(result.kept)
    for row in range(len(result.samples)):
        own, targets = ids(result, row), result.targets[row].tolist()
        assert len(targets) == len(own)
        assert targets[-1] == -1
        assert all(t in (-1, after) for t, after in zip(targets, own[1:], strict=False))


TEXTS = st.text(ALPHABET, max_size=12)
MODELS = ("llama", "gpt", "gpt-prefix")


@pytest.fixture(scope="module")
def loaded(bundles: dict[str, Path]) -> dict[tuple[str, int], LanguageTokenizer]:
    return {
        (name, length): LanguageTokenizer(bundles[name], decoder(length))
        for name in MODELS
        for length in (8, 200)
    }


def spelt(tokenizer: LanguageTokenizer, tokens: list[int]) -> str:
    return str(tokenizer._tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("name", MODELS)
@given(prompt=TEXTS.filter(bool), completion=TEXTS)
def test_what_is_counted_spells_the_completion_and_ends(loaded, name, prompt, completion) -> None:
    tokenizer = loaded[name, 200]
    result = tokenizer.encode(completions((prompt, completion)), FILE)
    check_aligned(result)
    *written, last = counted(result)
    assert last == EOS
    assert spelt(tokenizer, written) == completion
    assert spelt(tokenizer, ids(result)).lstrip(" ") == (prompt + completion).lstrip(" ")
    assert (len(result.truncated), result.num_skipped) == (0, 0)


@pytest.mark.parametrize("name", MODELS)
@given(prompt=TEXTS.filter(bool), completion=TEXTS)
def test_a_long_prompt_loses_its_beginning_before_the_completion_its_end(
    loaded, name, prompt, completion
) -> None:
    data = completions((prompt, completion))
    whole, cut = (loaded[name, length].encode(data, FILE) for length in (200, 8))
    check_aligned(cut)
    assert len(ids(cut)) == min(8, len(ids(whole)))
    assert len(cut.truncated) == (len(ids(whole)) > 8)
    assert counted(cut) == counted(whole)[: len(counted(cut))]
    room = 7  # one token is left before the completion: <s>, or the prompt's last
    assert len(counted(cut)) == min(len(counted(whole)), room)
    if name == "llama":
        assert ids(cut)[0] == BOS


@pytest.mark.parametrize("name", MODELS)
@given(text=TEXTS.filter(bool))
def test_of_a_text_everything_counts_but_its_first_token(loaded, name, text) -> None:
    whole, cut = (loaded[name, length].encode(documents(text), FILE) for length in (200, 8))
    for result in (whole, cut):
        check_aligned(result)
        assert counted(result) == ids(result)[1:]
    assert ids(whole)[-1] == EOS
    assert ids(cut) == ids(whole)[:8]
    assert len(cut.truncated) == (len(ids(whole)) > 8)


@pytest.mark.parametrize("name", MODELS)
def test_of_a_chat_the_assistants_turns_count_with_their_end_markers(bundles, name) -> None:
    tokenizer = LanguageTokenizer(bundles[name], decoder(200, eos_token_ids=(EOS, END)))
    user = {"role": "user", "content": "a"}
    turns = tuple({"role": "assistant", "content": said} for said in ("bcé a", "d"))
    result = tokenizer.encode(chats((user, turns[0], user, turns[1]), (user, turns[1])), FILE)
    check_aligned(result)
    first = counted(result, 0)
    assert first.count(END) == 2
    assert spelt(tokenizer, first[: first.index(END)]) == "bcé a"
    assert spelt(tokenizer, first[first.index(END) :]) == "d"
    assert spelt(tokenizer, counted(result, 1)) == "d"
    assert BOS not in ids(result), "the template decides about special tokens"


def test_a_chat_that_is_cut_before_the_answer_is_skipped_and_counted(bundles) -> None:
    tokenizer = LanguageTokenizer(bundles["gpt"], decoder(40))
    long, short = ({"role": "user", "content": "a" * n} for n in (90, 1))
    answer = {"role": "assistant", "content": "b"}
    result = tokenizer.encode(chats((long, answer), (short, answer), (long, answer)), FILE)
    assert (result.kept.tolist(), result.num_skipped, len(result.truncated)) == ([1], 2, 0)


def test_nothing_to_learn_is_bad_input(bundles) -> None:
    tokenizer = LanguageTokenizer(bundles["gpt"], decoder(8))
    with pytest.raises(BadInputError, match=r"data\.jsonl: no line has a token to learn within"):
        tokenizer.encode(documents("", ""), FILE)


def test_samples_are_keyed_by_all_they_are_made_of(bundles) -> None:
    result = LanguageTokenizer(bundles["gpt"], decoder()).encode(documents("ab"), FILE)
    assert dict(result.samples.streams) == {"input_ids": "decoder"}
    inputs = {"input_ids": Ragged.from_rows([ids(result)])}
    assert result.samples.keys.tolist() == sample_keys(DIGEST, inputs).tolist()
    both = LanguageTokenizer(bundles["bart"], encoder_decoder())
    samples = both.encode(transformations(("a", "b")), FILE).samples
    assert dict(samples.streams) == {"input_ids": "encoder", "decoder_input_ids": "decoder"}
    assert samples.lengths_of["decoder"].tolist() == [3]


def transformations(*pairs: tuple[str, str]) -> Transformations:
    return Transformations(
        sources=tuple(source for source, _ in pairs),
        targets=tuple(target for _, target in pairs),
        places=places(len(pairs)),
    )


WORDS = st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join)


@given(source=WORDS, target=WORDS)
def test_a_decoder_reads_what_it_should_have_written_so_far(bundles, source, target) -> None:
    whole, cut = (
        LanguageTokenizer(bundles["bart"], encoder_decoder(length)).encode(
            transformations((source, target)), FILE
        )
        for length in (64, 6)
    )
    read, written = whole.samples.inputs["decoder_input_ids"][0].tolist(), counted(whole)
    assert read == [START, *written[:-1]]
    assert (written[0], written[-1]) == (BOS, EOS)
    assert (ids(whole)[0], ids(whole)[-1]) == (BOS, EOS)
    assert len(ids(whole)) == 2 + len(source.split())
    assert ids(cut)[-1] == EOS, "the frame of a source survives"
    assert counted(cut) == written[:6]
    assert cut.samples.inputs["decoder_input_ids"][0].tolist() == read[:6]
    assert len(cut.truncated) == (max(len(source.split()), len(target.split())) > 4)


def test_an_empty_source_is_a_filler_where_nothing_frames_it(bundles) -> None:
    tokenizer = LanguageTokenizer(bundles["gpt"], encoder_decoder())
    assert ids(tokenizer.encode(transformations(("", "a")), FILE)) == [7]


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (decoder(eos_token_ids=()), documents("a"), "which token ends a text; .*eos_token_id"),
        (decoder(eos_token_ids=()), completions(("a", "b")), "which token ends a text"),
        (encoder_decoder(decoder_start_token_id=None), transformations(("a", "b")), "starts with"),
    ],
)
def test_a_token_that_the_bundle_lacks_is_bad_input(bundles, model, data, said) -> None:
    with pytest.raises(BadInputError, match=said):
        LanguageTokenizer(bundles["gpt"], model).encode(data, FILE)


def test_a_backbone_with_other_inputs_is_no_language_model(bundles) -> None:
    spec = InputSpec(name="decoder_input_ids", dtype="int64", kind="tokens")
    with pytest.raises(BadInputError, match="takes decoder_input_ids, which a language model"):
        LanguageTokenizer(bundles["gpt"], manifest(spec))


def test_the_name_of_a_special_token_in_a_text_is_said(bundles) -> None:
    tokenizer = LanguageTokenizer(bundles["gpt"], decoder())
    result = tokenizer.encode(documents("ab", "a</s>b"), FILE)
    assert EOS in ids(result, 1)[:-1]
    (note,) = result.notes
    assert "1 of its texts have the name of a special token ('</s>' first)" in note
    assert tokenizer.encode(documents("ab"), FILE).notes == ()


CHAT = chats(({"role": "assistant", "content": "b"},))


def test_a_turn_that_the_template_rewrites_is_a_sample_of_its_own_and_that_is_said(
    tmp_path: Path,
) -> None:
    bundle = gpt(tmp_path / "gpt")
    forgets = "{% if loop.last %}!{% endif %}{{ m.content }}</s>"
    template = "{% for m in messages %}" + forgets + "{% endfor %}"
    (bundle / "tokenizer" / "chat_template.jinja").write_text(template)
    user, answer = ({"role": role, "content": role[0]} for role in ("user", "assistant"))
    result = LanguageTokenizer(bundle, decoder()).encode(
        chats((user, answer), (user, answer, user, answer)), FILE
    )
    check_aligned(result)
    assert result.kept.tolist() == [0, 1, 1]
    assert (len(result.truncated), result.num_skipped) == (0, 0)
    (note,) = result.notes
    assert "rewrites earlier turns of 1 lines" in note
    assert "3 samples of 2 lines" in note


def test_answers_without_a_stop_token_are_said(tmp_path: Path) -> None:
    bundle = gpt(tmp_path / "gpt")
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (bundle / "tokenizer" / "chat_template.jinja").write_text(plain)
    user, answer = ({"role": role, "content": role[0]} for role in ("user", "assistant"))
    (note,) = LanguageTokenizer(bundle, decoder()).encode(chats((user, answer)), FILE).notes
    assert "1 lines have answers behind which the chat template writes no stop token" in note


def test_chats_need_a_template(tmp_path: Path) -> None:
    tokenizer = LanguageTokenizer(gpt(tmp_path / "gpt"), decoder())
    with pytest.raises(BadInputError, match=r"data\.jsonl: .* no chat template; give prompt and"):
        tokenizer.encode(CHAT, FILE)


WRITES = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [WRITES, [{"name": "tool_use", "template": "no"}, {"name": "default", "template": WRITES}]],
)
def test_a_template_may_be_in_the_tokenizers_configuration(tmp_path: Path, template) -> None:
    config = {"chat_template": template, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    folder = gpt(tmp_path / "gpt")
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    marked = chats(({"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}))
    found = LanguageTokenizer(folder, decoder()).encode(marked, FILE)
    assert (ids(found)[0], len(ids(found)), counted(found)[-1]) == (BOS, 5, EOS)


def test_a_configuration_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = gpt(tmp_path / "gpt")
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadInputError, match=r"tokenizer_config\.json: not JSON"):
        LanguageTokenizer(folder, decoder()).encode(CHAT, FILE)


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    folder = gpt(tmp_path / "gpt")
    (folder / "tokenizer" / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BadInputError, match=r"chat_template\.jinja: cannot be read"):
        LanguageTokenizer(folder, decoder()).encode(CHAT, FILE)
