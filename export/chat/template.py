"""Renders conversations by a model's chat template, as transformers does.

A template comes with a model, hence from a stranger. It runs in jinja2's immutable sandbox
without a loader and with few globals, nothing that is random or tells the time (a text would
be other tokens tomorrow, and its cached states lost). What the sandbox does not bound, time
and memory, :mod:`.sandbox` does.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.parser import Parser

from .conversation import Conversation, Message, Rendered

SPARE_CHARACTERS = 20_000
GROWTH = 8
"""A rendering is at most so much longer than its chat as JSON, and spare characters."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplateError(Exception):
    """The template cannot be read, fails, or does not write what is to be learnt."""


class ChatTemplate:
    """Renders by one model's template.

    Attributes:
        marked: the template says itself what the model writes, with ``{% generation %}``.
        special_tokens: those that the template may name.
    """

    def __init__(self, source: str, variables: Mapping[str, str], tool_use: str = "") -> None:
        """Compiles it.

        Args:
            source: jinja2.
            variables: special tokens by the names that templates know, as ``bos_token``.
            tool_use: the template for chats with tools; empty where it is the same.

        Raises:
            ChatTemplateError: it is no jinja2, or loads other files.
        """
        self._environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        names = ("range", "dict", "namespace")
        kept = {name: self._environment.globals[name] for name in names}
        self._environment.globals = kept
        self._environment.globals["raise_exception"] = _raise
        self._environment.filters.pop("random")
        self._environment.filters["tojson"] = _to_json
        # Unguessable, so that no message can claim to be the assistant's.
        self._open, self._close = (f"\ue000{secrets.token_hex(16)}" for _ in "()")
        self._environment.extend(pacplus_marks=(self._open, self._close))
        self.marked = bool(_GENERATION.search(tool_use or source))
        self._variables = dict(variables)
        self.special_tokens = tuple(filter(None, variables.values()))
        self._sources = source + tool_use
        self._plain = self._compiled(source)
        self._tool_use = self._compiled(tool_use) if tool_use else self._plain

    def _compiled(self, source: str) -> jinja2.Template:
        try:
            return self._environment.from_string(source)
        except Exception as error:  # jinja2 computes constants while it compiles
            raise ChatTemplateError(f"the chat template cannot be read: {_reason(error)}") from None

    def names(self, word: str) -> bool:
        """Tells whether the template's source has ``word``: what it does not name, it ignores."""
        return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", self._sources) is not None

    def render(
        self, chat: Conversation, messages: Sequence[Message], *, prompt: bool = False
    ) -> Rendered:
        """Renders ``messages`` with the chat's tools and variables.

        Args:
            chat: whose they are.
            messages: all of its messages or some.
            prompt: write them up to where the assistant's next turn begins.

        Returns:
            Text, and the spans that the template itself marks.

        Raises:
            ChatTemplateError: the template fails.
        """
        given = (list(messages), list(chat.tools), dict(chat.variables))
        limit = SPARE_CHARACTERS + GROWTH * len(json.dumps(given))
        pieces: list[str] = []
        size = 0
        template = self._tool_use if chat.tools else self._plain
        try:
            for piece in template.generate(
                **{**self._variables, **chat.variables},
                messages=messages,
                add_generation_prompt=prompt,
                tools=list(chat.tools) or None,
                documents=None,
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
        return self._from_marks("".join(pieces))

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
        return Rendered(text=text, spans=tuple(spans))


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


def _reason(error: Exception) -> str:
    return str(error)[:300] or type(error).__name__


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja2's own, not made for HTML; takes what transformers' takes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
