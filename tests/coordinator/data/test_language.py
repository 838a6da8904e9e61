import json
from pathlib import Path

import pytest

from coordinator.data import (
    Completions,
    Conversations,
    Documents,
    FieldNames,
    Transformations,
    read_language_data,
)
from edge_runtime.contract.errors import BadInputError
from export.chat.conversation import Conversation

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello", "name": "pac"}


def jsonl(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def places(path: Path, lines: int = 1) -> tuple[str, ...]:
    return tuple(f"{path}, line {number}" for number in range(1, lines + 1))


def test_texts_are_learnt_whole(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "a", "id": 1}, {"text": ""})
    data = read_language_data(path, "causal-lm")
    assert data == Documents(texts=("a", ""), places=places(path, 2))


def test_prompts_have_completions(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a", "completion": " b"}, {"prompt": "", "completion": "c"})
    assert read_language_data(path, "causal-lm") == Completions(
        prompts=("a", ""), completions=(" b", "c"), places=places(path, 2)
    )


def test_messages_keep_what_a_template_may_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"messages": [USER, ASSISTANT]})
    data = read_language_data(path, "causal-lm")
    chat = Conversation.of(USER, ASSISTANT)
    assert data == Conversations(conversations=(chat,), places=places(path))


def test_an_encoder_decoder_has_sources_and_targets(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"source": "a", "target": "b"})
    data = read_language_data(path, "seq2seq")
    assert data == Transformations(sources=("a",), targets=("b",), places=places(path))


@pytest.mark.parametrize(
    ("task", "line", "names"),
    [
        ("causal-lm", {"t": "a"}, FieldNames(text="t")),
        ("causal-lm", {"q": "a", "a": "b"}, FieldNames(prompt="q", completion="a")),
        ("causal-lm", {"chat": [ASSISTANT]}, FieldNames(messages="chat")),
        ("seq2seq", {"en": "a", "de": "b"}, FieldNames(source="en", target="de")),
        # Another form's usual name does not matter once it is renamed.
        ("causal-lm", {"question": "a", "text": "b"}, FieldNames(text="question")),
    ],
)
def test_fields_can_be_renamed(tmp_path: Path, task, line, names) -> None:
    assert read_language_data(jsonl(tmp_path, line), task, names).places


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"txt": "a"}, "has 'txt'; language modelling needs 'text', or 'prompt' and 'completion'"),
        ({}, "has no field; language modelling needs"),
        ({"text": "a", "prompt": "b", "completion": "c"}, "'text' and 'prompt', .* leave one out"),
        ({"messages": [ASSISTANT], "text": "b"}, "'text' and 'messages'"),
        ({"prompt": "a"}, "'completion' is missing .*--completion-field renames"),
        ({"completion": "a"}, "'prompt' is missing .*--prompt-field renames"),
        ({"text": 1}, "'text' must be a string, got 1; put it in quotes: \"1\""),
        ({"prompt": "a", "completion": True}, 'must be a string, got True; .*: "true"'),
        ({"prompt": "a", "completion": None}, "got None; give a text, or leave the line out"),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "one list of all its messages, in a field"),
        (
            {"question": "a", "The Answer": "", "Answer": "b"},
            "has 'question', .* say --prompt-field question --completion-field Answer$",
        ),
        ({"question": "a"}, "'instruction' and 'output'$"),
        (
            {"instruction": "a", "instances": [{"input": "b", "output": "c"}]},
            r"'output' is missing, .* \(the line has 'instruction', 'instances'\); give each of "
            "'instances' a line of its own, with 'instruction'$",
        ),
        ({"messages": []}, "'messages' must be a list of messages"),
        ({"messages": "hi"}, "'messages' must be a list of messages"),
        ({"messages": ["hi"]}, r"'messages\[0\]' must be an object with 'role' and 'content'"),
        ({"messages": [USER, {"role": "assistant"}]}, r"'messages\[1\].content' is missing; give"),
        ({"messages": [{**USER, "content": None}]}, r"'messages\[0\].content' is null; give"),
        ({"messages": [{**USER, "role": 1}]}, r"'messages\[0\].role' must be a string"),
        ({"messages": [USER]}, "no turn of the role 'assistant'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line, said: str) -> None:
    with pytest.raises(BadInputError, match=rf"data\.jsonl, line 1: .*{said}"):
        read_language_data(jsonl(tmp_path, line), "causal-lm")


def test_all_lines_have_the_form_of_the_first(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "a"}, {"text": "b"}, {"prompt": "a", "completion": "b"})
    with pytest.raises(BadInputError, match="line 3: has 'prompt', but line 1 has 'text'; give"):
        read_language_data(path, "causal-lm")


def test_a_missing_target_names_its_option(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"'target' is missing .*--target-field renames"):
        read_language_data(jsonl(tmp_path, {"source": "a", "text": "b"}), "seq2seq")


@pytest.mark.parametrize(
    ("ignored", "form"),
    [(("text",), Conversations), (("instruction", "output"), Documents), (("input",), None)],
)
def test_a_line_of_two_forms_is_learnt_as_the_one_that_is_not_ignored(tmp_path, ignored, form):
    line = {"text": "a", "instruction": "b", "input": "c", "output": "d"}
    names = FieldNames(ignored=ignored)
    names.check("causal-lm")
    if form is None:
        with pytest.raises(BadInputError, match="leave one out"):
            read_language_data(jsonl(tmp_path, line), "causal-lm", names)
    else:
        found = read_language_data(jsonl(tmp_path, line), "causal-lm", names)
        assert isinstance(found, form)


def test_an_ignored_input_of_alpaca_is_not_asked(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"instruction": "b", "input": "c", "output": "d"})
    found = read_language_data(path, "causal-lm", FieldNames(ignored=("input",)))
    assert isinstance(found, Conversations)
    assert found.conversations[0].messages[0]["content"] == "b"
