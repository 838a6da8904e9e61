"""Chats are read in the notations that people have."""

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.data import Conversations, FieldNames, read_language_data
from edge_runtime.contract.errors import BadInputError
from export.chat.conversation import Conversation

ASKS = {"role": "user", "content": "Hi"}
ANSWERS = {"role": "assistant", "content": "Hello."}


def read(folder: Path, line: object, names: FieldNames | None = None) -> Conversation:
    path = folder / "chats.jsonl"
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    data = read_language_data(path, "causal-lm", names)
    assert isinstance(data, Conversations)
    return data.conversations[0]


def test_a_turn_of_weight_0_is_not_learnt(tmp_path: Path) -> None:
    for name, no, yes in (("weight", 0, 1), ("weight", 0.0, 1.0), ("train", False, True)):
        bad, good = {**ANSWERS, name: no}, {**ANSWERS, name: yes}
        chat = read(tmp_path, {"messages": [{**ASKS, name: no}, bad, ASKS, good]})
        assert chat.learnt == (False, False, False, True)
        assert chat.messages == (ASKS, ANSWERS, ASKS, ANSWERS), "the template does not see it"


@pytest.mark.parametrize("speaker", ["gpt", "assistant", "chatgpt"])
def test_sharegpts_conversations_are_chats(tmp_path: Path, speaker: str) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": speaker, "value": "Hello."}]
    chat = read(tmp_path, {"conversations": turns, "system": "Be brief."})
    system = {"role": "system", "content": "Be brief."}
    assert chat == Conversation.of(system, ASKS, ANSWERS)
    assert read(tmp_path, {"messages": turns}) == Conversation.of(ASKS, ANSWERS)


def test_sharegpts_calls_are_calls(tmp_path: Path) -> None:
    call = {"name": "weather", "arguments": {"city": "Bergen"}}
    turns = [
        {"from": "human", "value": "Rain?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": "Yes."},
    ]
    chat = read(tmp_path, {"conversations": turns, "tools": "[]"})
    assert chat.messages[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert chat.messages[2] == {"role": "tool", "content": "rain"}
    assert (chat.learnt, chat.tools) == ((False, True, False, True), ())


def test_alpacas_instructions_are_chats(tmp_path: Path) -> None:
    line = {"instruction": "Add.", "input": "2 and 2", "output": "4"}
    asked, answered = (
        {"role": r, "content": c} for r, c in (("user", "Add.\n2 and 2"), ("assistant", "4"))
    )
    assert read(tmp_path, line) == Conversation.of(asked, answered)
    chat = read(tmp_path, {**line, "input": "", "system": "s", "history": [["Hi", "Hello."]]})
    assert [m["content"] for m in chat.messages] == ["s", "Hi", "Hello.", "Add.", "4"]
    assert chat.learnt == (False, False, True, False, True)


def test_openais_earlier_functions_are_tools(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": "{}"}
    answer = {"role": "assistant", "content": None, "function_call": call}
    back = {"role": "function", "name": "f", "content": "1"}
    chat = read(tmp_path, {"messages": [ASKS, answer, back, ANSWERS], "functions": [{"name": "f"}]})
    assert chat.messages[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert chat.messages[2]["role"] == "tool"
    assert chat.tools == ({"type": "function", "function": {"name": "f"}},)


def test_a_key_of_a_message_can_be_ignored(tmp_path: Path) -> None:
    line = {"messages": [ASKS, {**ANSWERS, "mask": 1, "weight": 0.5}]}
    names = FieldNames(ignored=("mask", "weight"))
    assert read(tmp_path, line, names) == Conversation.of(ASKS, ANSWERS)


def test_parts_are_text(tmp_path: Path) -> None:
    parts: list[Any] = ["Hel", {"type": "text", "text": "lo."}]
    chat = read(tmp_path, {"messages": [ASKS, {**ANSWERS, "content": parts}]})
    assert [part["text"] for part in chat.messages[1]["content"]] == ["Hel", "lo."]


SYSTEM = {"role": "system", "content": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "a.png"}}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"messages": [ASKS, {**ANSWERS, "weight": 0.5}]}, r"messages\[1\].weight' must be 0 or 1"),
        ({"messages": [ASKS, {**ANSWERS, "weight": "0"}]}, r"messages\[1\].weight' must be 0 or 1"),
        ({"messages": [{**ASKS, "train": True}, ANSWERS]}, "only turns of the role 'assistant'"),
        ({"messages": [ASKS, {**ANSWERS, "train": True, "weight": 0}]}, "contradict each other"),
        ({"messages": [ASKS, {**ANSWERS, "weight": 0}]}, "weight 0 on every turn"),
        (
            {"messages": [{**ASKS, "content": [IMAGE]}, ANSWERS]},
            r"content\[0\]' must be a part",
        ),
        ({"messages": [{**ASKS, "content": {"a": 1}}, ANSWERS]}, r"content' must be a string"),
        ({"messages": [ASKS, {**ANSWERS, "tool_calls": [3]}]}, r"tool_calls\[0\]' must be an obj"),
        (
            {"messages": [ASKS, {**ANSWERS, "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            r"function.arguments' is not JSON",
        ),
        ({"messages": [ASKS, ANSWERS], "tools": {"a": 1}}, "'tools' must be a list"),
        ({"messages": [ASKS, ANSWERS], "chat_template_kwargs": {"tools": 1}}, "has 'tools', which"),
        ({"messages": [{"content": "a"}, ANSWERS]}, r"'messages\[0\]' lacks 'role'"),
        ({"conversations": [{"from": "robot", "value": "a"}]}, "from' must be one of human"),
        ({"conversations": [{"from": "gpt"}]}, r"conversations\[0\].content' is null"),
        (
            {"messages": [{"role": "system", "content": "a"}, ANSWERS], "system": "b"},
            "'system' and a sys",
        ),
        ({"conversations": [ANSWERS], "messages": [ANSWERS]}, "'messages' and 'conversations'"),
        ({"messages": [ANSWERS], "prompt": "Hi"}, "'prompt' and 'messages'.* leave one out"),
        ({"instruction": "a"}, "'output' is missing, so there is nothing to learn"),
        ({"instruction": "a", "output": 4}, "'output' must be a string"),
        (
            {"instruction": "a", "output": "b", "history": ["c"]},
            "'history' must be a list",
        ),
    ],
)
def test_a_chat_that_is_none_is_named(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(BadInputError, match=rf"chats\.jsonl, line 1: .*{said}"):
        read(tmp_path, line)
