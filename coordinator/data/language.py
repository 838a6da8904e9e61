"""Lines for language models: what is read, and of what the loss is counted.

All lines of a file have one form: ``text``; ``prompt`` and ``completion``; ``messages``; or,
for encoder-decoders, ``source`` and ``target``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .lines import FieldNames, Line, read_lines

LanguageTask: TypeAlias = Literal["causal-lm", "seq2seq"]
Message: TypeAlias = Mapping[str, Any]
"""``role`` and ``content``, both strings, and whatever else the chat template reads."""

ASSISTANT = "assistant"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Texts to be learnt whole.

    Attributes:
        texts: one a line.
        line_numbers: where each came from, from 1.
    """

    texts: tuple[str, ...]
    line_numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """Texts to be completed, and how.

    Attributes:
        prompts: one a line; no loss is counted.
        completions: what must follow, with nothing between.
        line_numbers: where each came from, from 1.
    """

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    line_numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Chats whose assistant's turns are to be learnt.

    Attributes:
        conversations: the messages of each line; at least one is the assistant's.
        line_numbers: where each came from, from 1.
    """

    conversations: tuple[tuple[Message, ...], ...]
    line_numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transformations:
    """Texts, and what to make of them.

    Attributes:
        sources: what the encoder reads, one a line.
        targets: what the decoder must write.
        line_numbers: where each came from, from 1.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    line_numbers: tuple[int, ...]


LanguageData: TypeAlias = Documents | Completions | Conversations | Transformations


def read_language_data(
    path: Path, task: LanguageTask, fields: FieldNames | None = None
) -> LanguageData:
    """Reads training or evaluation data.

    Raises:
        BadInputError: the file or a line is not what it must be, or is of another form than
            the first one.
    """
    names = fields or FieldNames()
    lines = read_lines(path)
    numbers = tuple(line.number for line in lines)
    if task == "seq2seq":
        return Transformations(
            sources=tuple(line.text(names.source, names) for line in lines),
            targets=tuple(line.text(names.target, names) for line in lines),
            line_numbers=numbers,
        )
    form = form_of(lines, names)
    if form == names.text:
        texts = tuple(line.text(names.text, names) for line in lines)
        return Documents(texts=texts, line_numbers=numbers)
    if form == names.messages:
        conversations = tuple(_conversation(line, names) for line in lines)
        return Conversations(conversations=conversations, line_numbers=numbers)
    return Completions(
        prompts=tuple(line.text(names.prompt, names) for line in lines),
        completions=tuple(line.text(names.completion, names) for line in lines),
        line_numbers=numbers,
    )


def form_of(lines: Sequence[Line], names: FieldNames) -> str:
    """The field by which all lines' form is known: text, prompt or messages."""
    first = _form(lines[0], names)
    for line in lines[1:]:
        form = _form(line, names)
        if form != first:
            raise line.error(
                f"has {form!r}, but line {lines[0].number} has {first!r}; "
                "give all lines of a file the same form"
            )
    return first


def _form(line: Line, names: FieldNames) -> str:
    has = [
        form
        for form, field in (
            (names.text, names.text),
            (names.prompt, names.prompt),
            (names.prompt, names.completion),
            (names.messages, names.messages),
        )
        if field in line.values
    ]
    forms = list(dict.fromkeys(has))
    if len(forms) == 1:
        return forms[0]
    if not forms:
        raise line.error(
            f"has {line.has}; language modelling needs {names.text!r}, or {names.prompt!r} and "
            f"{names.completion!r}, or {names.messages!r} (--text-field and the like rename)"
        )
    raise line.error(
        f"has {forms[0]!r} and {forms[1]!r}, so it is not clear what to learn; leave one out"
    )


def _conversation(line: Line, names: FieldNames) -> tuple[Message, ...]:
    name = names.messages
    value = read_messages(line, names)
    if all(message["role"] != ASSISTANT for message in value):
        raise line.error(
            f"field {name!r} has no turn of the role {ASSISTANT!r}, so there is nothing to learn; "
            "add the answer or leave the line out"
        )
    return value


def read_messages(line: Line, names: FieldNames) -> tuple[Message, ...]:
    """The messages of a line; at least one.

    Raises:
        BadInputError: they are not what they must be.
    """
    name = names.messages
    value = line.field(name, names)
    if not isinstance(value, list) or not value:
        raise line.wrong(name, "a list of messages, each with 'role' and 'content'", value)
    for i, message in enumerate(value):
        where = f"{name}[{i}]"
        if not isinstance(message, dict):
            raise line.wrong(where, "an object with 'role' and 'content'", message)
        for key in ("role", "content"):
            if key not in message:
                raise line.error(f"field '{where}' lacks {key!r}; give role and content, as text")
            line.string(f"{where}.{key}", message[key])
    return tuple(value)
