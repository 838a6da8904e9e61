"""Lines to be continued: prompts, chats up to an answer, or an encoder-decoder's sources."""

import dataclasses
from collections.abc import Sequence

from export.chat.conversation import ASSISTANT, Conversation

from .fields import FieldNames, Form
from .language import LanguageTask, form_of, read_chat
from .lines import Line
from .read import Source, read_data


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts to continue: texts, or else chats.

    Attributes:
        texts: prompts or sources, one a line.
        chats: the messages before the assistant's turn that is to be written.
        expected: what should be written; empty where nobody asked for it, and for chats.
        answered: for chats, each with that turn; empty where nobody asked for it.
        places: where each stands, for messages.
    """

    texts: tuple[str, ...] = ()
    chats: tuple[Conversation, ...] = ()
    expected: tuple[str, ...] = ()
    answered: tuple[Conversation, ...] = ()
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)


def said_by_user(texts: Sequence[str], places: tuple[str, ...]) -> Prompts:
    """Makes chats of which each text is the only turn, the user's."""
    chats = (Conversation.of({"role": "user", "content": text}) for text in texts)
    return Prompts(chats=tuple(chats), places=places)


def read_prompts(
    source: Source, task: LanguageTask, fields: FieldNames | None = None, *, expected: bool = False
) -> Prompts:
    """Reads what is to be continued; what follows it in training data is not looked at.

    Args:
        source: the file.
        task: of the run.
        fields: what the fields are called.
        expected: read what should be written too: completion, target, or the last turn of a
            chat, which must be the assistant's.

    Raises:
        BadInputError: the file or a line is not what it must be, or is of another form than
            the first one.
    """
    names = fields or FieldNames()
    lines = read_data(source, names.ignored).lines
    places = tuple(line.place for line in lines)
    form = form_of(lines, names) if task == "causal-lm" else "text"
    if form == "chat" or form == "instruction":
        turns = [_turn(line, names, form, expected=expected) for line in lines]
        return Prompts(
            chats=tuple(asked for asked, _ in turns),
            answered=tuple(whole for _, whole in turns if expected),
            places=places,
        )
    asked, answer = names.source, names.target
    if task == "causal-lm":
        asked, answer = names.prompt, names.completion
    return Prompts(
        texts=tuple(line.text(asked, names) for line in lines),
        expected=tuple(line.text(answer, names) for line in lines if expected),
        places=places,
    )


def _turn(
    line: Line, names: FieldNames, form: Form, *, expected: bool
) -> tuple[Conversation, Conversation]:
    """Reads a chat without its last turn, if that is the assistant's, and with it."""
    whole = read_chat(line, names, form)
    messages = whole.messages
    if messages[-1]["role"] == ASSISTANT:
        messages = messages[:-1]
    elif expected:
        raise line.error(
            f"does not end with a turn of the role {ASSISTANT!r}, so "
            "there is nothing to compare with; add the answer or leave the line out"
        )
    if not messages:
        raise line.error("has nothing before the assistant's turn")
    last = tuple(i == len(messages) for i in range(len(whole.messages)))
    asked = dataclasses.replace(whole, messages=messages, learnt=())
    return asked, dataclasses.replace(whole, learnt=last)
