"""A prompt has the tokens that training gives it, and what follows comes back as text."""

import dataclasses
from pathlib import Path

import pytest

from coordinator.data import Completions, Prompts, Transformations
from coordinator.tokenization import LanguageTokenizer, PromptTokenizer, TokenizedPrompts
from edge_runtime.contract.errors import BadInputError
from export.chat.conversation import Conversation
from tests.coordinator.tokenization.test_language import (
    BOS,
    CHATML,
    EOS,
    FILE,
    START,
    decoder,
    encoder_decoder,
    gpt,
    llama,
    places,
)


def prompts(*texts: str) -> Prompts:
    return Prompts(texts=texts, places=tuple(f"text {i}" for i in range(1, len(texts) + 1)))


def ids_of(found: TokenizedPrompts, line: int = 0, name: str = "input_ids") -> list[int]:
    return found.samples.inputs[name][line].tolist()


def test_a_prompt_is_what_a_completion_was_trained_to_follow(tmp_path: Path) -> None:
    bundle, model = llama(tmp_path), decoder()
    found = PromptTokenizer(bundle, model, 8).encode(prompts("Q: ab A:", "c"), None)
    data = Completions(prompts=("Q: ab A:", "c"), completions=("", ""), places=places(2))
    trained = LanguageTokenizer(bundle, model).encode(data, FILE)
    for line in range(2):
        assert [*ids_of(found, line), EOS] == trained.samples.inputs["input_ids"][line].tolist()
    assert (found.num_truncated, ids_of(found)[0]) == (0, BOS)


def test_a_source_is_what_an_encoder_was_trained_on(tmp_path: Path) -> None:
    bundle, model = llama(tmp_path), encoder_decoder(max_length=6)
    found = PromptTokenizer(bundle, model, 8).encode(prompts("ab", "abcd abcd"), None)
    data = Transformations(sources=("ab", "abcd abcd"), targets=("a", "a"), places=places(2))
    trained = LanguageTokenizer(bundle, model).encode(data, FILE)
    for line in range(2):
        assert ids_of(found, line) == trained.samples.inputs["input_ids"][line].tolist()
        assert ids_of(found, line, "decoder_input_ids") == [START]
    assert found.num_truncated == 1


def test_a_long_prompt_loses_its_beginning_and_leaves_room(tmp_path: Path) -> None:
    bundle = llama(tmp_path)
    tokenizer = PromptTokenizer(bundle, decoder(max_length=12), 4)
    found = tokenizer.encode(prompts("Q" * 20 + "cb", "cb"), None)
    assert tokenizer.limit == 8
    assert len(ids_of(found)) == 8
    assert (ids_of(found)[0], found.num_truncated) == (BOS, 1)
    assert ids_of(found)[-2:] == ids_of(found, 1)[-2:]


def test_a_prompt_keeps_half_of_the_models_tokens(tmp_path: Path) -> None:
    assert PromptTokenizer(llama(tmp_path), decoder(max_length=12), 500).limit == 6


def test_a_chat_ends_where_the_assistant_begins(tmp_path: Path) -> None:
    bundle = gpt(tmp_path)
    (bundle / "tokenizer" / "chat_template.jinja").write_text(CHATML)
    chats = Prompts(chats=(Conversation.of({"role": "user", "content": "ab"}),), places=places(1))
    tokenizer = PromptTokenizer(bundle, decoder(), 8)
    found = ids_of(tokenizer.encode(chats, FILE))
    asked = "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    plain = tokenizer.encode(prompts(asked), FILE)
    assert found == ids_of(plain)


def test_what_a_chat_should_answer_is_what_its_template_writes_without_the_stop_token(
    tmp_path: Path,
) -> None:
    bundle = gpt(tmp_path)
    thinks = "{% if m.role == 'assistant' and loop.last %}(hm){% endif %}{{ m.content }}</s>"
    thinks = "{% for m in messages %}" + thinks + "{% endfor %}"
    (bundle / "tokenizer" / "chat_template.jinja").write_text(thinks)
    user, answer = ({"role": role, "content": role[0]} for role in ("user", "assistant"))
    whole = Conversation.of(user, answer)
    asked = Conversation.of(user)
    chats = Prompts(chats=(asked,), answered=(whole,), places=places(1))
    assert PromptTokenizer(bundle, decoder(), 8).expected(chats, FILE) == ("(hm)a",)


def test_texts_of_more_tokens_than_may_be_written_are_counted(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(llama(tmp_path), decoder(), 8)
    lengths = [len(ids) for ids in tokenizer._ids(["the", "the cat", "the cat is"])]
    assert lengths == sorted(set(lengths))
    assert tokenizer.count_longer(["the", "the cat", "the cat is"], lengths[1]) == 1
    assert tokenizer.count_longer(["the", "the cat", "the cat is"], lengths[1] - 1) == 2


def test_a_chat_needs_a_template(tmp_path: Path) -> None:
    chats = Prompts(chats=(Conversation.of({"role": "user", "content": "ab"}),), places=places(1))
    with pytest.raises(BadInputError, match="no chat template"):
        PromptTokenizer(llama(tmp_path), decoder(), 8).encode(chats, FILE)


def test_an_empty_prompt_is_named_where_nothing_begins_a_text(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(gpt(tmp_path), decoder(), 8)
    with pytest.raises(BadInputError, match=r"^text 2: has no token"):
        tokenizer.encode(prompts("a", ""), None)
    of_file = Prompts(texts=("a", ""), places=places(2))
    with pytest.raises(BadInputError, match=r"^data.jsonl, line 2: has no token"):
        tokenizer.encode(of_file, FILE)


def test_an_encoder_decoder_needs_a_start_token(tmp_path: Path) -> None:
    model = dataclasses.replace(encoder_decoder(), decoder_start_token_id=None)
    with pytest.raises(BadInputError, match="decoder_start_token_id"):
        PromptTokenizer(llama(tmp_path), model, 8).encode(prompts("a"), None)


def test_blanks_between_prompt_and_continuation_are_kept(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(llama(tmp_path), decoder(), 8)
    whole = ids_of(tokenizer.encode(prompts("ab ac"), None))
    context = ids_of(tokenizer.encode(prompts("ab"), None))
    assert whole[: len(context)] == context
    assert tokenizer.decode(context, whole[len(context) :]) == " ac"


def test_special_tokens_are_not_text(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(llama(tmp_path), decoder(), 8)
    context = ids_of(tokenizer.encode(prompts("ab"), None))
    assert tokenizer.decode(context, [EOS, BOS]) == ""
