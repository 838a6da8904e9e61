"""Chats become the tokens that transformers makes of them, and the assistant's are learnt."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.data import read_language_data, read_prompts
from coordinator.tokenization import LanguageTokenizer, PromptTokenizer, TokenizedLanguage
from edge_runtime.contract.errors import BadInputError
from tests.chat_templates import SPECIAL, TEMPLATES, TURN_ENDS, chat_tokenizer, marked, unmarked
from tests.coordinator.tokenization.test_language import counted, decoder, ids

LONG = 4000
STOPS = tuple(SPECIAL.index(token) for token in ("</s>", *sorted(set(TURN_ENDS.values()))))

Turn = dict[str, Any]


def user(content: Any) -> Turn:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> Turn:
    return {"role": "assistant", "content": content, **more}


ONE = [user("A dog."), assistant("Max was a dog.")]
TWO = [*ONE, user("More, please:\n\n```\nx\n```"), assistant("  Max rän.\n")]
SYSTEM = [{"role": "system", "content": "Be brief."}, *TWO]
ENDS_WITH_A_QUESTION = [*TWO, user("And?")]
ODD = [user("\u200f\u202eabc \U0001f469\u200d\U0001f680\x00 <s>"), assistant("\r\n\ufeffé")]
CHATS = (ONE, TWO, SYSTEM, ENDS_WITH_A_QUESTION, ODD)

ARGUMENTS = {"city": "Bergen", "days": 2}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def called(arguments: Any) -> list[Turn]:
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "c12345678", "type": "function", "function": function}
    return [
        user("Weather in Bergen?"),
        assistant("", tool_calls=[call]),
        {"role": "tool", "tool_call_id": "c12345678", "content": "rain"},
        assistant("It rains."),
    ]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("chats")

    def make(name: str, *, with_marks: bool = False) -> Path:
        template = (marked if with_marks else unmarked)(TEMPLATES[name])
        made = folder / f"{name}-{with_marks}"
        chat_tokenizer(made / "tokenizer", template)
        return made

    return functools.cache(make)


@pytest.fixture(scope="module")
def transformers_of(bundle: Any) -> Any:
    from transformers import AutoTokenizer

    return functools.cache(
        lambda name: AutoTokenizer.from_pretrained(bundle(name, with_marks=True) / "tokenizer")
    )


def learn(bundle: Path, folder: Path, *lines: object) -> TokenizedLanguage:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = LanguageTokenizer(bundle, decoder(LONG, eos_token_ids=STOPS))
    return tokenizer.encode(read_language_data(path, "causal-lm"), str(path))


def expected(tokenizer: Any, messages: list[Turn], **more: Any) -> tuple[list[int], list[int]]:
    """Ids of a chat by transformers, and those of them that its assistant wrote."""
    made = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, **more
    )
    masks = zip(made["input_ids"], made["assistant_masks"], strict=True)
    return made["input_ids"], [token for token, mask in masks if mask]


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_learnt_tokens_are_those_of_transformers(
    bundle, transformers_of, tmp_path, name
) -> None:
    skipped = [SYSTEM] if name == "mistral" else []  # its template refuses a system message
    chats = [chat for chat in CHATS if chat not in skipped]
    for with_marks in (False, True):
        made = learn(
            bundle(name, with_marks=with_marks), tmp_path, *({"messages": chat} for chat in chats)
        )
        for line, chat in enumerate(chats):
            row = made.kept.tolist().index(line)
            if name == "qwen-3" and not with_marks:  # rewrites: see the next test
                continue
            whole, learnt = expected(transformers_of(name), chat)
            assert (ids(made, row), counted(made, row)) == (whole, learnt)


def test_turns_that_are_rewritten_are_learnt_as_transformers_renders_them_last(
    bundle, transformers_of, tmp_path
) -> None:
    lines = [{"messages": chat} for chat in (SYSTEM, ENDS_WITH_A_QUESTION)]
    made = learn(bundle("qwen-3"), tmp_path, *lines)
    assert made.kept.tolist() == [0, 0, 1, 1]
    for row, chat in enumerate((SYSTEM, SYSTEM[:3], TWO, ONE)):
        whole, learnt = expected(transformers_of("qwen-3"), chat)
        assert ids(made, row) == whole
        assert counted(made, row) == learnt[-len(counted(made, row)) :]
        text = transformers_of("qwen-3").decode(counted(made, row))
        assert text == f"<think>\n\n</think>\n\n{chat[-1]['content']}<|im_end|>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_has_the_ids_of_transformers(bundle, transformers_of, tmp_path, name) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"messages": TWO[:3]}) + "\n")
    tokenizer = PromptTokenizer(bundle(name), decoder(LONG), 8)
    found = tokenizer.encode(read_prompts(path, "causal-lm"), str(path))
    oracle = transformers_of(name).apply_chat_template(TWO[:3], add_generation_prompt=True)
    assert found.samples.inputs["input_ids"][0].tolist() == oracle["input_ids"]


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)])
@pytest.mark.parametrize("name", ["qwen-2.5", "qwen-3", "deepseek"])
def test_arguments_of_calls_have_the_form_that_the_template_takes(
    bundle, transformers_of, tmp_path, name, arguments
) -> None:
    made = learn(bundle(name), tmp_path, {"messages": called(arguments)})
    right = json.dumps(ARGUMENTS) if name == "deepseek" else ARGUMENTS
    whole, learnt = expected(transformers_of(name), called(right))
    assert ids(made) == whole
    assert json.dumps(ARGUMENTS) in transformers_of(name).decode(counted(made))
    assert counted(made) == learnt


@pytest.mark.parametrize("name", ["qwen-2.5", "qwen-3"])
def test_tools_are_given_to_the_template(bundle, transformers_of, tmp_path, name) -> None:
    lines = [{"messages": ONE, "tools": tools} for tools in (TOOLS, json.dumps(TOOLS))]
    lines.append({"messages": ONE, "functions": [TOOLS[0]["function"]]})
    made = learn(bundle(name), tmp_path, *lines)
    whole, _ = expected(transformers_of(name), ONE, tools=TOOLS)
    for row in range(3):
        assert ids(made, row) == whole


@pytest.mark.parametrize("content", [None, ...])
@pytest.mark.parametrize("name", ["qwen-2.5", "qwen-3", "deepseek"])
def test_a_call_needs_no_content(bundle, transformers_of, tmp_path, name, content) -> None:
    chat = called(json.dumps(ARGUMENTS) if name == "deepseek" else ARGUMENTS)
    chat[1] = {key: value for key, value in chat[1].items() if key != "content"}
    without = [dict(turn) for turn in chat]
    if content is None:
        chat[1]["content"] = None
    made = learn(bundle(name), tmp_path, {"messages": chat})
    assert ids(made) == expected(transformers_of(name), without)[0]


@pytest.mark.parametrize("name", ["gemma", "chatml", "llama-3"])
def test_parts_of_text_are_joined(bundle, transformers_of, tmp_path, name) -> None:
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "dog."}]
    made = learn(bundle(name), tmp_path, {"messages": [user(parts), ONE[1]]})
    assert ids(made) == expected(transformers_of(name), ONE)[0]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_are_written_where_the_template_writes_them(
    bundle, transformers_of, tmp_path, key
) -> None:
    chat = [user("A dog."), assistant("Max.", **{key: "Hm."})]
    made = learn(bundle("qwen-3"), tmp_path, {"messages": chat})
    assert ids(made) == expected(transformers_of("qwen-3"), chat)[0]
    assert "<think>\nHm.\n</think>" in transformers_of("qwen-3").decode(counted(made))
    with pytest.raises(BadInputError, match=r"messages\[1\] has 'reasoning_content', which"):
        learn(bundle("chatml"), tmp_path, {"messages": chat})


def test_variables_of_the_template_can_be_set(bundle, tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    variables = {"enable_thinking": False}
    path.write_text(json.dumps({"messages": ONE[:1], "chat_template_kwargs": variables}))
    tokenizer = PromptTokenizer(bundle("qwen-3"), decoder(LONG), 8)
    (prompt,) = tokenizer.encode(read_prompts(path, "causal-lm"), str(path)).samples.inputs[
        "input_ids"
    ]
    written = tokenizer._tokenizer.decode(prompt.tolist(), skip_special_tokens=False)
    assert written.endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("chatml", {"messages": ONE, "tools": TOOLS}, "the line has 'tools', which this model's"),
        ("chatml", {"messages": called("{}")}, r"messages\[1\] has 'tool_calls'"),
        ("chatml", {"messages": [ONE[0], {**ONE[1], "mask": 1}]}, r"messages\[1\] has 'mask'"),
        ("mistral", {"messages": SYSTEM}, "roles must alternate"),
        ("qwen-2.5", {"messages": [user("a"), {"role": "critic", "content": "b"}, ONE[1]]}, "out"),
    ],
)
def test_what_would_be_left_out_is_an_error(bundle, tmp_path, name, line, said) -> None:
    with pytest.raises(BadInputError, match=f"line 1: .*{said}"):
        learn(bundle(name), tmp_path, line)


@pytest.mark.parametrize("name", ["chatml", "qwen-2.5", "smollm2", "llama-3"])
def test_a_chat_may_begin_with_the_assistant(bundle, transformers_of, tmp_path, name) -> None:
    chat = [assistant("What shall I tell you?"), *ONE]
    made = learn(bundle(name), tmp_path, {"messages": chat})
    whole, learnt = expected(transformers_of(name), chat)
    assert (ids(made), counted(made)) == (whole, learnt)


@pytest.mark.parametrize(("name", "role"), [("qwen-2.5", "system"), ("chatml", "developer")])
def test_developer_is_a_system_message_where_the_template_does_not_write_it(
    bundle, transformers_of, tmp_path, name, role
) -> None:
    given, written = ([{**SYSTEM[0], "role": each}, *ONE] for each in ("developer", role))
    made = learn(bundle(name), tmp_path, {"messages": given})
    assert ids(made) == expected(transformers_of(name), written)[0]
