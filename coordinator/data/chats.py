"""Reads chats: OpenAI's ``messages``, ShareGPT's ``conversations``, Alpaca's instructions."""

import json
from collections.abc import Mapping
from typing import Any

from edge_runtime.contract.errors import BadInputError
from export.chat.conversation import ASSISTANT, Conversation, Message

from .fields import (
    FUNCTIONS,
    HISTORY,
    INPUT,
    INSTRUCTION,
    OUTPUT,
    SHAREGPT,
    SYSTEM,
    TOOLS,
    VARIABLES,
    FieldNames,
)
from .lines import Line

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing", "model"), ASSISTANT),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response", "function"), "tool"),
}
"""Who speaks in ShareGPT's ``from``; ``function_call`` is a call of the assistant's."""


def read_conversation(line: Line, names: FieldNames) -> Conversation:
    """Reads the chat of a line; at least one message.

    Raises:
        BadInputError: it is not what it must be.
    """
    field = names.messages if names.messages in line.values else SHAREGPT
    value = line.field(field, names)
    if isinstance(value, str) and value.lstrip().startswith("["):  # in a cell of a table
        value = _parsed(line, field, value)
    if not isinstance(value, list) or not value:
        raise line.wrong(field, "a list of messages, each with 'role' and 'content'", value)
    messages: list[Message] = []
    learnt: list[bool] = []
    if (system := line.values.get(SYSTEM)) not in (None, ""):
        if isinstance(value[0], dict) and "system" in (value[0].get("role"), value[0].get("from")):
            raise line.error(f"has the field {SYSTEM!r} and a system message; leave one out")
        messages.append({"role": "system", "content": line.string(SYSTEM, system)})
        learnt.append(False)
    for i, given in enumerate(value):
        where = f"{field}[{i}]"
        if not isinstance(given, dict):
            raise line.wrong(where, "an object with 'role' and 'content'", given)
        turn = {key: given[key] for key in given if key not in names.ignored}
        message = _sharegpt(line, where, turn) if "from" in turn else turn
        learnt.append(_learnt(line, where, message))
        messages.append(_message(line, where, message))
    return Conversation(
        messages=tuple(messages),
        learnt=tuple(learnt),
        tools=_tools(line),
        variables=_variables(line),
    )


def read_instruction(line: Line, names: FieldNames) -> Conversation:
    """Reads Alpaca's fields as a chat: instruction and input are asked, the output answered.

    Raises:
        BadInputError: they are not what they must be.
    """
    system = _optional(line, SYSTEM)
    messages = [{"role": "system", "content": system}] if system else []
    history = line.values.get(HISTORY) or []
    pairs = isinstance(history, list) and all(
        isinstance(each, list) and len(each) == 2 for each in history
    )
    if not pairs:
        raise line.wrong(HISTORY, "a list of pairs of question and answer", history)
    for i, (question, answer) in enumerate(history):
        messages.append({"role": "user", "content": line.string(f"{HISTORY}[{i}][0]", question)})
        messages.append({"role": ASSISTANT, "content": line.string(f"{HISTORY}[{i}][1]", answer)})
    asked = [line.text(INSTRUCTION, names), _optional(line, INPUT)]
    messages.append({"role": "user", "content": "\n".join(filter(None, asked))})
    if OUTPUT in line.values:
        messages.append({"role": ASSISTANT, "content": line.text(OUTPUT, names)})
    return Conversation.of(*messages)


def _optional(line: Line, name: str) -> str:
    value = line.values.get(name)
    return "" if value is None else line.string(name, value)


def _sharegpt(line: Line, where: str, turn: Mapping[str, Any]) -> dict[str, Any]:
    speaker, said = turn["from"], turn.get("value")
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if {"role", "content"} & rest.keys():
        raise line.error(f"field {where!r} has 'from' and 'role' or 'content'; leave one out")
    if speaker == "function_call":
        call = _object(line, f"{where}.value", said)
        return {"role": ASSISTANT, "tool_calls": [{"type": "function", "function": call}], **rest}
    if not isinstance(speaker, str) or speaker not in _ROLES:
        known = ", ".join((*_ROLES, "function_call"))
        raise line.wrong(f"{where}.from", f"one of {known}", speaker)
    return {"role": _ROLES[speaker], "content": said, **rest}


def _learnt(line: Line, where: str, message: dict[str, Any]) -> bool:
    """Takes ``weight`` and ``train`` out of a message and decides by them."""
    answers = message.get("role") == ASSISTANT
    marks = {
        name: value
        for name in ("weight", "train")
        if (value := message.pop(name, None)) is not None
    }
    for name, value in marks.items():
        if isinstance(value, str) or value not in (0, 1):
            raise line.wrong(f"{where}.{name}", "0 or 1", value)
        if value and not answers:
            raise line.error(
                f"field '{where}.{name}' wants a turn of the role {message.get('role')!r} to be "
                f"learnt; only turns of the role {ASSISTANT!r} are"
            )
    if len(set(map(bool, marks.values()))) > 1:
        raise line.error(f"field {where!r} has 'weight' and 'train' that contradict each other")
    return answers and all(marks.values())


def _message(line: Line, where: str, message: dict[str, Any]) -> Message:
    if "role" not in message:
        raise line.error(f"field {where!r} lacks 'role'; give role and content")
    line.string(f"{where}.role", message["role"])
    if message["role"] == "function":  # the earlier name of OpenAI
        message["role"] = "tool"
    if (call := message.pop("function_call", None)) is not None:
        if message.get("tool_calls"):
            raise line.error(f"field {where!r} has 'function_call' and 'tool_calls'; leave one out")
        message["tool_calls"] = [{"type": "function", "function": call}]
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [
            _call(line, f"{where}.tool_calls[{i}]", call)
            for i, call in enumerate(_list(line, f"{where}.tool_calls", calls))
        ]
    elif "tool_calls" in message:
        del message["tool_calls"]
    content = message.get("content")
    if content is None and not calls:
        state = "is null" if "content" in message else "is missing"
        raise line.error(
            f"field '{where}.content' {state}; give the text of the turn, or its tool_calls"
        )
    if isinstance(content, list):
        message["content"] = [
            _part(line, f"{where}.content[{i}]", part) for i, part in enumerate(content)
        ]
    elif content is not None:
        line.string(f"{where}.content", content)
    return message


def _part(line: Line, where: str, part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, dict) or part.get("type", "text") not in (
        "text",
        "input_text",
        "output_text",
    ):
        raise line.wrong(where, "a part of text, since a language model reads nothing else", part)
    return {"type": "text", "text": line.string(f"{where}.text", part.get("text"))}


def _call(line: Line, where: str, call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise line.wrong(where, "an object with a function's name and arguments", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        _object(line, f"{where}.function.arguments", arguments)
    elif arguments is not None and not isinstance(arguments, str | dict):
        raise line.wrong(f"{where}.function.arguments", "an object", arguments)
    beside = call if function is not call else {"type": "function"}
    return {**beside, "function": function}


def _tools(line: Line) -> tuple[Mapping[str, Any], ...]:
    found: list[Mapping[str, Any]] = []
    for field in (TOOLS, FUNCTIONS):
        value = line.values.get(field)
        for i, tool in enumerate(_list(line, field, value) if value else ()):
            if not isinstance(tool, dict):
                raise line.wrong(f"{field}[{i}]", "an object that describes a function", tool)
            found.append({"type": "function", "function": tool} if field == FUNCTIONS else tool)
    return tuple(found)


def _variables(line: Line) -> Mapping[str, Any]:
    value = line.values.get(VARIABLES)
    if not value:
        return {}
    if not isinstance(value, dict):
        raise line.wrong(VARIABLES, "an object", value)
    reserved = {"messages", "tools", "documents", "add_generation_prompt"} & value.keys()
    if reserved:
        raise line.error(f"field {VARIABLES!r} has {min(reserved)!r}, which is not for it to say")
    return value


def _list(line: Line, where: str, value: Any) -> list[Any]:
    """A list, or one as JSON text, as tables hold it."""
    found = _parsed(line, where, value)
    if not isinstance(found, list):
        raise line.wrong(where, "a list", value)
    return found


def _object(line: Line, where: str, value: Any) -> dict[str, Any]:
    found = _parsed(line, where, value)
    if not isinstance(found, dict):
        raise line.wrong(where, "a JSON object", value)
    return found


def _parsed(line: Line, where: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{line.error(f'field {where!r} is not JSON ({error})')}") from None
