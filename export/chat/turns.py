"""Finds the turns that are learnt in what a template writes.

A template may mark what the model writes with ``{% generation %}``. If it does not, a turn is
found by rendering: it begins where the template stops for the messages before it (with
``add_generation_prompt``, which is where the model would begin) and ends where it stops for
the messages up to it.

A template may write an earlier turn otherwise once a later one follows, as those that drop
earlier thoughts. Such a turn is learnt as it is written when it is the last one: in a sample of
its own, which ends with it.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .conversation import ASSISTANT, Conversation, Message, Rendered, Span
from .dialect import Dialect
from .template import ChatTemplate, ChatTemplateError

UNWRITTEN = frozenset(
    {
        *("id", "name", "tool_call_id", "index", "type", "timestamp", "created_at", "created"),
        *("date", "time", "model", "finish_reason", "stop_reason", "usage", "refusal"),
        *("annotations", "metadata", "language", "lang", "emotion", "thinking"),
    }
)
"""Keys of messages that change nothing where the template does not name them."""

_WRITTEN = ("role", "content")
_MARK = "pacplus-mark"


class Turns:
    """Renders conversations by one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._dialect = Dialect(template)

    def prompt(self, chat: Conversation) -> str:
        """Renders a chat up to where the assistant's next turn begins.

        Raises:
            ChatTemplateError: the template fails, or leaves out what the chat says.
        """
        messages = self._dialect.adapt(chat.messages)
        self._check_named(chat, messages)
        text = self._template.render(chat, messages, prompt=True).text
        self._check_written(chat, messages, range(len(messages)), text, prompt=True)
        return text

    def samples(self, chat: Conversation) -> list[Rendered]:
        """Renders a chat with the turns that are learnt: one sample where that is possible.

        Raises:
            ChatTemplateError: the template fails, leaves out what the chat says, or writes
                turns that cannot be found.
        """
        messages = self._dialect.adapt(chat.messages)
        self._check_named(chat, messages)
        whole = self._template.render(chat, messages)
        missing = [i for i, learnt in enumerate(chat.learnt) if learnt]
        asked = [i for i, message in enumerate(messages) if message["role"] != ASSISTANT]
        self._check_written(chat, messages, asked, whole.text)
        if self._template.marked:
            self._check_written(chat, messages, missing, whole.text)
            return [_marked(chat, whole)]
        samples = []
        end = len(messages)
        while missing:
            text = self._template.render(chat, messages[:end]).text
            found = {i: span for i in missing if (span := self._span(chat, messages, i, text))}
            # What comes behind the last turn may change it; where it ends the chat, nothing can.
            if missing[-1] not in found and end == missing[-1] + 1:
                raise ChatTemplateError(
                    f"the chat template cannot be split into turns: where messages[{missing[-1]}] "
                    "stands in what it writes is not clear; mark the assistant's turns in it with "
                    "{% generation %} and {% endgeneration %}, or give prompt and completion"
                )
            if found:
                self._check_written(chat, messages[:end], list(found), text)
                samples.append(Rendered(text=text, spans=tuple(found.values())))
            missing = [i for i in missing if i not in found]
            end = missing[-1] + 1 if missing else 0
        return samples

    def turn_end(self) -> str:
        """Renders what the template writes behind an answer; empty if it fails."""
        asked, answer = {"role": "user", "content": "a"}, {"role": ASSISTANT, "content": _MARK}
        chat = Conversation.of(asked, answer)
        try:
            return self._template.render(chat, chat.messages).text.rpartition(_MARK)[2]
        except ChatTemplateError:
            return ""

    def _span(
        self, chat: Conversation, messages: Sequence[Message], index: int, text: str
    ) -> Span | None:
        """Finds a turn in ``text``; None where it is not written as if it were the last one."""
        up_to = self._template.render(chat, messages[: index + 1]).text
        up_to = self._without_closing(up_to, messages[index])
        if not text.startswith(up_to):
            return None
        start = self._start(chat, messages[: index + 1], up_to)
        return None if start is None else (start, len(up_to))

    def _without_closing(self, up_to: str, turn: Message) -> str:
        """Takes off what the template writes behind the whole chat, if the turn has an end too."""
        rest = up_to.removesuffix(self._closing)
        content = str(turn.get("content", "")).strip()
        return rest if not rest.rstrip().endswith(content or self._closing) else up_to

    @functools.cached_property
    def _closing(self) -> str:
        """Finds the special token that some templates write behind a whole chat; or nothing."""
        asked, answer = {"role": "user", "content": "a"}, {"role": ASSISTANT, "content": _MARK}
        chat = Conversation.of(asked, answer)
        short, whole = self._try(chat, [asked]), self._try(chat, [asked, answer])
        if short is None or whole is None or whole.startswith(short):
            return ""
        closings = (token for token in self._template.special_tokens if short.endswith(token))
        return next((each for each in closings if whole.startswith(short.removesuffix(each))), "")

    def _start(self, chat: Conversation, messages: Sequence[Message], up_to: str) -> int | None:
        """Finds where the last of ``messages`` begins in ``up_to``, which ends with it."""
        *before, turn = messages
        opened = self._try(chat, before, prompt=True)
        if opened is not None and up_to.startswith(opened):
            return len(opened)
        # The prompt is not how the turn begins: the template refuses a chat that begins with the
        # assistant, puts a system message of its own before it, or opens a thought.
        marked = self._try(chat, [*before, {**turn, "content": _MARK}])
        content = -1 if marked is None else marked.find(_MARK)
        if marked is None or content < 0 or not up_to.startswith(marked[:content]):
            return None
        header = self._header
        at = marked.rfind(header, 0, content) if header else -1
        if at >= 0 and at + len(header) <= content:
            return at + len(header)
        closed = self._try(chat, before) if before else ""
        if opened is None or closed is None or not up_to.startswith(closed):
            return content
        pairs = zip(opened, up_to, strict=False)
        alike = next((i for i, (a, b) in enumerate(pairs) if a != b), len(up_to))
        return min(content, max(len(closed), alike))

    @functools.cached_property
    def _header(self) -> str:
        """Renders what the template writes to have the assistant begin."""
        chat = Conversation.of({"role": "user", "content": "a"})
        closed = self._try(chat, chat.messages)
        opened = self._try(chat, chat.messages, prompt=True)
        if closed is None or opened is None or not opened.startswith(closed):
            return ""
        return opened[len(closed) :]

    def _try(
        self, chat: Conversation, messages: Sequence[Message], *, prompt: bool = False
    ) -> str | None:
        try:
            return self._template.render(chat, messages, prompt=prompt).text
        except ChatTemplateError:
            return None

    def _check_named(self, chat: Conversation, messages: Sequence[Mapping[str, Any]]) -> None:
        """Refuses what would change the text, but is nowhere named in the template."""
        for where, key in keys_to_write(chat, messages):
            if not self._template.names(key):
                raise ChatTemplateError(
                    f"{where} {key!r}, which this model's chat template does not read and pacplus "
                    f"does not know; leave it out, or say --ignore-field {key}"
                )

    def _check_written(
        self,
        chat: Conversation,
        messages: Sequence[Message],
        indices: Iterable[int],
        text: str,
        *,
        prompt: bool = False,
    ) -> None:
        """Refuses chats of which the template leaves some message's content out of ``text``."""
        for i in indices:
            message = messages[i]
            said = message.get("content")
            content = said.strip() if isinstance(said, str) else ""
            if not content or content in text:
                continue
            other = [*messages[:i], {**message, "content": _MARK}, *messages[i + 1 :]]
            if self._try(chat, other, prompt=prompt) == text:
                raise ChatTemplateError(
                    f"the chat template leaves out the content of messages[{i}], of the role "
                    f"{message['role']!r}; write it as the model knows it, or leave it out"
                )


def keys_to_write(
    chat: Conversation, messages: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Lists what a template must name to write it: where it stands, and its key."""
    if chat.tools:
        yield "the line has", "tools"
    for name in chat.variables:
        yield "chat_template_kwargs has", name
    for i, message in enumerate(messages):
        aliases = {"thinking", "reasoning"} if "reasoning_content" in message else set()
        for key in message:
            if key not in _WRITTEN and key not in UNWRITTEN | aliases:
                yield f"messages[{i}] has", key


def _marked(chat: Conversation, whole: Rendered) -> Rendered:
    """Takes the spans that the template marks, those of turns that are learnt."""
    turns = [i for i, message in enumerate(chat.messages) if message["role"] == ASSISTANT]
    spans: Sequence[Span] = whole.spans
    if not all(chat.learnt[i] for i in turns):
        if len(spans) != len(turns):
            raise ChatTemplateError(
                f"the chat template marks {len(spans)} parts of {len(turns)} turns of the "
                "assistant, so it is not clear which of them a weight of 0 leaves out"
            )
        spans = [span for i, span in zip(turns, spans, strict=True) if chat.learnt[i]]
    return Rendered(text=whole.text, spans=tuple(span for span in spans if span[0] < span[1]))
