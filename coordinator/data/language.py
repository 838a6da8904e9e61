"""Lines for language models: what is read, and of what the loss is counted.

All lines of a file have one form, which their fields tell: a text; a prompt and its
completion; a chat in one of three notations; or, for encoder-decoders, source and target.
"""

import dataclasses
import functools
import shlex
from collections.abc import Sequence
from typing import Literal, TypeAlias

from edge_runtime.contract.manifest import Task
from export.chat.conversation import ASSISTANT, Conversation

from .chats import read_conversation, read_instruction
from .fields import ANSWERS, ASKS, INSTRUCTION, OUTPUT, SHAREGPT, FieldNames, Form, quoted
from .lines import Line
from .read import Source, read_data

LanguageTask: TypeAlias = Literal["causal-lm", "seq2seq"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Texts to be learnt whole.

    Attributes:
        texts: one a line.
        places: where each stands, for messages.
    """

    texts: tuple[str, ...]
    places: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """Texts to be completed, and how.

    Attributes:
        prompts: one a line; no loss is counted.
        completions: what must follow, with nothing between.
        places: where each stands, for messages.
    """

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    places: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Chats whose assistant's turns are to be learnt.

    Attributes:
        conversations: one a line; at least one turn of each is learnt.
        places: where each stands, for messages.
    """

    conversations: tuple[Conversation, ...]
    places: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transformations:
    """Texts, and what to make of them.

    Attributes:
        sources: what the encoder reads, one a line.
        targets: what the decoder must write.
        places: where each stands, for messages.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    places: tuple[str, ...]


LanguageData: TypeAlias = Documents | Completions | Conversations | Transformations


def read_language_data(
    source: Source, task: LanguageTask, fields: FieldNames | None = None
) -> LanguageData:
    """Reads training or evaluation data.

    Raises:
        BadInputError: the file or a line is not what it must be, or is of another form than
            the first one.
    """
    names = fields or FieldNames()
    lines = read_data(source, names.ignored).lines
    places = tuple(line.place for line in lines)
    if task == "seq2seq":
        return Transformations(
            sources=tuple(line.text(names.source, names) for line in lines),
            targets=tuple(line.text(names.target, names) for line in lines),
            places=places,
        )
    form = form_of(lines, names)
    if form == "text":
        texts = tuple(line.text(names.text, names) for line in lines)
        return Documents(texts=texts, places=places)
    if form == "completion":
        return Completions(
            prompts=tuple(line.text(names.prompt, names) for line in lines),
            completions=tuple(line.text(names.completion, names) for line in lines),
            places=places,
        )
    conversations = tuple(_learnable(line, names, form) for line in lines)
    return Conversations(conversations=conversations, places=places)


def form_of_data(lines: Sequence[Line], task: Task, names: FieldNames) -> Form:
    """Finds the form of a task's lines; those of a language model tell it by their fields."""
    if task == "causal-lm":
        return form_of(lines, names)
    return "pair" if task == "seq2seq" else "labelled"


def form_of(lines: Sequence[Line], names: FieldNames) -> Form:
    """Finds the form that all lines have."""
    first = _form(lines[0], names)
    for line in lines[1:]:
        form = _form(line, names)
        if form != first:
            fields = [_told_by(each, names)[0][1] for each in (line, lines[0])]
            raise line.error(
                f"has {fields[0]!r}, but {lines[0].place_beside(line)} has {fields[1]!r}; "
                "give all lines of a file the same form"
            )
    return first


@functools.lru_cache(8)
def _telling(names: FieldNames) -> tuple[tuple[Form, str], ...]:
    """Lists the fields that tell a form, with it; a renamed field tells its own alone."""
    named: tuple[tuple[Form, str], ...] = (
        ("text", names.text),
        ("completion", names.prompt),
        ("completion", names.completion),
        ("chat", names.messages),
    )
    fixed: tuple[tuple[Form, str], ...] = (("chat", SHAREGPT), ("instruction", INSTRUCTION))
    return named + tuple(each for each in fixed if not names.renamed_to(each[1]))


def _told_by(line: Line, names: FieldNames) -> list[tuple[Form, str]]:
    """Lists those of a line."""
    return [(form, field) for form, field in _telling(names) if field in line.values]


def _form(line: Line, names: FieldNames) -> Form:
    told = _told_by(line, names)
    if not told:
        raise line.error(
            f"has {line.has}; language modelling needs {names.text!r}, or {names.prompt!r} and "
            f"{names.completion!r}, or {names.messages!r} (--text-field and the like rename), or "
            f"{SHAREGPT!r}, or {INSTRUCTION!r} and {OUTPUT!r}{_renaming(line)}"
        )
    chats = [field for form, field in told if form == "chat"]
    other = next((field for form, field in told if form != told[0][0]), chats[1:] and chats[1])
    if other:
        raise line.error(
            f"has {told[0][1]!r} and {other!r}, so it is not clear what to learn; leave one out, "
            f"or say --ignore-field {other}"
        )
    return told[0][0]


def _renaming(line: Line) -> str:
    """Names the options for a line of a question and its answer under usual names."""
    asks, answers = (
        next((name for name in line.values if name.lower() in usual), None)
        for usual in (ASKS, ANSWERS)
    )
    if asks is None or answers is None:
        return ""
    return f"; say --prompt-field {shlex.quote(asks)} --completion-field {shlex.quote(answers)}"


def read_chat(line: Line, names: FieldNames, form: Form) -> Conversation:
    """Reads the chat of a line, in the notation of its form.

    Raises:
        BadInputError: it is not what it must be.
    """
    read = read_instruction if form == "instruction" else read_conversation
    return read(line, names)


def _learnable(line: Line, names: FieldNames, form: Form) -> Conversation:
    chat = read_chat(line, names, form)
    if any(chat.learnt):
        return chat
    if form == "instruction":
        raise line.error(
            f"field {OUTPUT!r} is missing, so there is nothing to learn (the line has {line.has})"
            f"{_unfolding(line)}"
        )
    if any(message["role"] == ASSISTANT for message in chat.messages):
        raise line.error(
            "has weight 0 on every turn of the assistant, so there is nothing to learn; leave the "
            "line out"
        )
    raise line.error(
        f"has no turn of the role {ASSISTANT!r}, so there is nothing to learn; "
        "add the answer or leave the line out"
    )


def _unfolding(line: Line) -> str:
    """Says what to do with a field that holds several outputs, as tasks of Self-Instruct do."""
    for name, value in line.values.items():
        if isinstance(value, list) and any(
            OUTPUT in each for each in value if isinstance(each, dict)
        ):
            return f"; give each of {quoted(name)} a line of its own, with {INSTRUCTION!r}"
    return ""
