"""Writes messages in the form that a template takes, which is found by trying it.

Templates differ in what they accept: content as text or as a list of parts, arguments of tool
calls as an object or as JSON text. Given the other form many of them write Python's notation
or doubly escaped JSON, so both are tried on a small chat.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .conversation import ASSISTANT, Conversation, Message
from .template import ChatTemplate, ChatTemplateError

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of what an assistant thought before it answered; templates read the first or second."""

_PROBE = "pacplus-probe"
_ASKS: Message = {"role": "user", "content": "a"}
_AS_TEXT = json.dumps({"city": _PROBE})


class Dialect:
    """Adapts messages to one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template

    def adapt(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Gives every message the form that the template takes; what is null is left out."""
        return [self._adapted(message) for message in messages]

    def _adapted(self, message: Message) -> dict[str, Any]:
        # As transformers: many templates would write "None".
        adapted = {key: value for key, value in message.items() if value is not None}
        thought = next((adapted[key] for key in REASONING if key in adapted), None)
        if thought is not None:
            adapted = {"thinking": thought, **adapted, "reasoning_content": thought}
        content = adapted.get("content")
        if isinstance(content, list) and not self._takes_parts:
            adapted["content"] = "".join(part["text"] for part in content)
        if adapted["role"] == "developer" and not self._writes_developers:
            adapted["role"] = "system"  # what OpenAI called it before
        if calls := adapted.get("tool_calls"):
            adapted["tool_calls"] = [self._call(call) for call in calls]
            if "content" not in adapted and not self._takes_no_content:
                adapted["content"] = ""
        return adapted

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = dict(call["function"])
        arguments = function.get("arguments")
        if isinstance(arguments, str) and self._wants_other_arguments(as_text=True):
            function["arguments"] = json.loads(arguments) if arguments.strip() else {}
        elif isinstance(arguments, Mapping) and self._wants_other_arguments(as_text=False):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        return {**call, "function": function}

    @functools.cached_property
    def _takes_parts(self) -> bool:
        parts = [{"type": "text", "text": _PROBE}]
        written = self._try({"role": "user", "content": parts})
        return written == self._try({"role": "user", "content": _PROBE}) and _PROBE in written

    @functools.cached_property
    def _writes_developers(self) -> bool:
        return _PROBE in self._try({"role": "developer", "content": _PROBE}, _ASKS)

    @functools.cached_property
    def _takes_no_content(self) -> bool:
        calls = {"role": ASSISTANT, "tool_calls": [_probe_call({})]}
        return bool(self._try(_ASKS, calls))

    def _wants_other_arguments(self, *, as_text: bool) -> bool:
        """Tells whether the template writes the other form properly, but not this one."""
        proper = self._proper_arguments
        return proper[not as_text] and not proper[as_text]

    @functools.cached_property
    def _proper_arguments(self) -> dict[bool, bool]:
        """Tells whether arguments are written well as text (True), as an object (False)."""
        text, plain = (
            self._try(_ASKS, {"role": ASSISTANT, "content": "", "tool_calls": [_probe_call(given)]})
            for given in (_AS_TEXT, {"city": _PROBE})
        )
        # Neither escaped twice nor in Python's notation; some write no JSON at all.
        return {
            True: _AS_TEXT in text,
            False: _PROBE in plain and "'city'" not in plain and '\\"' not in plain,
        }

    def _try(self, *messages: Message) -> str:
        try:
            return self._template.render(Conversation.of(*messages), messages).text
        except ChatTemplateError:
            return ""


def _probe_call(arguments: object) -> dict[str, Any]:
    # Mistral's templates want ids of nine letters and digits.
    function = {"name": "weather", "arguments": arguments}
    return {"id": "c00000001", "type": "function", "function": function}
