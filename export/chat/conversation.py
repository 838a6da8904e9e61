"""Defines a chat as it was written down, and as a template has rendered it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""``role``, mostly ``content``, and whatever else the chat template reads."""

ASSISTANT = "assistant"

Span: TypeAlias = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Holds one chat.

    Attributes:
        messages: its turns; plain JSON values.
        learnt: of each message, whether its tokens are learnt; only the assistant's are.
        tools: schemas of the functions that the assistant may call.
        variables: further variables of the template, as ``enable_thinking``.
    """

    messages: tuple[Message, ...]
    learnt: tuple[bool, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, *messages: Message) -> "Conversation":
        """Makes a chat of which every turn of the assistant is learnt."""
        return cls(messages=messages, learnt=tuple(m["role"] == ASSISTANT for m in messages))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: what the template wrote.
        spans: the turns that are learnt, with their end markers: ``text[start:end]``, ascending.
    """

    text: str
    spans: tuple[Span, ...]
