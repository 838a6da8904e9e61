import json
from pathlib import Path

import pytest

from coordinator.data import FieldNames, read_prompts
from edge_runtime.contract.errors import BadInputError

ASKS = {"role": "user", "content": "2+2?"}
ANSWERS = {"role": "assistant", "content": "4"}


def write(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_prompts_with_or_without_completions(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a"}, {"prompt": "b", "completion": "c"})
    found = read_prompts(path, "causal-lm")
    assert (found.texts, found.expected, len(found.places)) == (("a", "b"), (), 2)
    with pytest.raises(BadInputError, match="line 1: field 'completion' is missing"):
        read_prompts(path, "causal-lm", expected=True)


def test_sources_and_what_they_become(tmp_path: Path) -> None:
    path = write(tmp_path, {"source": "a", "target": "b"})
    assert read_prompts(path, "seq2seq").texts == ("a",)
    assert read_prompts(path, "seq2seq", expected=True).expected == ("b",)


def test_fields_may_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path, {"frage": "a"})
    assert read_prompts(path, "causal-lm", FieldNames(prompt="frage")).texts == ("a",)


def test_the_assistants_last_turn_is_what_is_to_be_written(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"messages": [ASKS, ANSWERS, ASKS, ANSWERS]}, {"messages": [ASKS, ANSWERS]}
    )
    found = read_prompts(path, "causal-lm", expected=True)
    assert [chat.messages for chat in found.chats] == [(ASKS, ANSWERS, ASKS), (ASKS,)]
    assert [chat.messages[-1] for chat in found.answered] == [ANSWERS, ANSWERS]
    assert [chat.learnt for chat in found.answered] == [(False,) * 3 + (True,), (False, True)]
    assert len(found) == 2


def test_a_chat_may_end_with_a_question(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": [ASKS]})
    (chat,) = read_prompts(path, "causal-lm").chats
    assert chat.messages == (ASKS,)
    with pytest.raises(BadInputError, match=r"line 1: .*nothing to compare with"):
        read_prompts(path, "causal-lm", expected=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"messages": [ANSWERS]}, "nothing before the assistant's turn"),
        ({"messages": []}, "must be a list of messages"),
        ({"text": "a"}, "field 'prompt' is missing"),
        ({"prompt": 3}, "must be a string"),
        ({}, "has no field"),
    ],
)
def test_a_line_without_a_prompt_is_named(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(BadInputError, match=f"line 1: .*{said}"):
        read_prompts(write(tmp_path, line), "causal-lm")
