"""Writes conversations as the model's chat template does, and finds the assistant's turns.

A template comes with a model, hence from a stranger. It runs in jinja2's immutable sandbox
without a loader and with few globals, nothing that is random or tells the time (a text would
be other tokens tomorrow, and its cached states lost). What the sandbox does not bound, time
and memory, :mod:`.chat_process` does.

Where an assistant's turn begins and ends: a template may say so with ``{% generation %}``.
If it does not, every turn is found by what the template writes for the messages before it
(with ``add_generation_prompt``, which is where the model would begin) and for the messages
up to it; each must be the beginning of the next.
"""

import dataclasses
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.parser import Parser

Message: TypeAlias = Mapping[str, Any]
Span: TypeAlias = tuple[int, int]

ASSISTANT = "assistant"
SPARE_CHARACTERS = 20_000
GROWTH = 8
"""A rendering is at most so much longer than its messages as JSON, and spare characters."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplateError(Exception):
    """The template cannot be read, fails, or cannot be split into turns."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: what the template wrote.
        spans: the assistant's turns, with their end markers: ``text[start:end]``, ascending.
    """

    text: str
    spans: tuple[Span, ...]


class ChatTemplate:
    """One model's template."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        """Compiles it.

        Args:
            source: jinja2.
            variables: special tokens by the names that templates know, as ``bos_token``.

        Raises:
            ChatTemplateError: it is no jinja2, or loads other files.
        """
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.globals = {
            name: environment.globals[name] for name in ("range", "dict", "namespace")
        }
        environment.globals["raise_exception"] = _raise
        environment.filters.pop("random")
        environment.filters["tojson"] = _to_json
        # Unguessable, so that no message can claim to be the assistant's.
        self._open, self._close = (f"\ue000{secrets.token_hex(16)}" for _ in "()")
        environment.extend(pacplus_marks=(self._open, self._close))
        self._marked = bool(_GENERATION.search(source))
        self._variables = dict(variables)
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # jinja2 computes constants while it compiles
            raise ChatTemplateError(f"the chat template cannot be read: {_reason(error)}") from None

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """The whole conversation and its assistant's turns.

        Raises:
            ChatTemplateError: the template fails, or cannot be split.
        """
        raw = self._render(messages, prompt=False)
        if self._marked:
            return self._from_marks(raw)
        spans, before = [], ""
        for i, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            start = self._render(messages[:i], prompt=True)
            end = self._render(messages[: i + 1], prompt=False)
            _check_prefix(before, start, i)
            _check_prefix(start, end, i)
            spans.append((len(start), len(end)))
            before = end
        _check_prefix(before, raw, len(messages) - 1)
        return Rendered(text=raw, spans=tuple(spans))

    def prompt(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the assistant's next turn begins.

        Raises:
            ChatTemplateError: the template fails.
        """
        raw = self._render(messages, prompt=True)
        return self._from_marks(raw).text if self._marked else raw

    def _render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        limit = SPARE_CHARACTERS + GROWTH * len(json.dumps(messages))
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(
                messages=messages,
                add_generation_prompt=prompt,
                tools=None,
                documents=None,
                **self._variables,
            ):
                size += len(piece)
                if size > limit:
                    raise ChatTemplateError(
                        f"the chat template writes more than {limit} characters"
                    )
                pieces.append(piece)
        except ChatTemplateError:
            raise
        except Exception as error:  # whatever a stranger's program may raise
            raise ChatTemplateError(f"the chat template fails: {_reason(error)}") from None
        return "".join(pieces)

    def _from_marks(self, raw: str) -> Rendered:
        """Takes the marks out again and says where they were."""
        text, spans, start = "", [], 0
        for piece in re.split(f"({self._open}|{self._close})", raw):
            if piece == self._open:
                start = len(text)
            elif piece == self._close:
                spans.append((start, len(text)))
            else:
                text += piece
        return Rendered(text=text, spans=tuple(span for span in spans if span[0] < span[1]))


class _Generation(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` around what the model is to write."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        before, after = getattr(self.environment, "pacplus_marks")  # noqa: B009 - see extend()
        return f"{before}{caller()}{after}"


def _check_prefix(before: str, after: str, index: int) -> None:
    if not after.startswith(before):
        raise ChatTemplateError(
            f"the chat template cannot be split into turns: what it writes up to message {index} "
            "changes with the messages behind; mark the assistant's turns in the template with "
            "{% generation %} and {% endgeneration %}, or give prompt and completion"
        )


def _reason(error: Exception) -> str:
    return str(error)[:300] or type(error).__name__


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Unlike jinja2's own, not made for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
