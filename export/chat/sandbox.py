"""Renders conversations in a process of its own, bounded in time and memory.

The sandbox keeps a template from files and from Python's insides, but not from looping for
ever or from asking for all memory; a process that has limits can simply be lost.
Only that process needs jinja2, which is imported late for this reason.
"""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from edge_runtime.contract.errors import BadInputError

from .conversation import Conversation, Rendered

if TYPE_CHECKING:
    from .turns import Turns

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 10
"""For each conversation; one of 100 messages takes milliseconds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSource:
    """A chat template before anybody has looked at it.

    Attributes:
        where: the file that it is in.
        source: jinja2.
        variables: special tokens by name.
        tool_use: the template for chats with tools, where there is one.
    """

    where: str
    source: str
    variables: Mapping[str, str]
    tool_use: str = ""


def render_conversations(
    template: TemplateSource,
    conversations: Sequence[Conversation],
    names: Sequence[str],
    cpu_seconds: int = CPU_SECONDS,
) -> list[list[Rendered]]:
    """Renders every conversation with its turns, each as one sample or more.

    Args:
        template: of the model.
        conversations: messages of each.
        names: what to call each of them in an error.
        cpu_seconds: what each of them may take.

    Raises:
        BadInputError: the template fails, cannot be split, or takes too long or too much.
    """
    results = _run(template, conversations, names, "samples", cpu_seconds)
    return [
        [
            Rendered(text=each["text"], spans=tuple((start, end) for start, end in each["spans"]))
            for each in result
        ]
        for result in results
    ]


def render_prompts(
    template: TemplateSource, conversations: Sequence[Conversation], names: Sequence[str]
) -> list[str]:
    """Renders every conversation up to where the assistant's next turn begins.

    Arguments and errors are those of :func:`render_conversations`.
    """
    return [str(text) for text in _run(template, conversations, names, "prompt", CPU_SECONDS)]


def render_turn_end(template: TemplateSource) -> str:
    """Renders what the template writes behind an answer; empty if it cannot be rendered."""
    try:
        (end,) = _run(template, [Conversation.of()], [template.where], "turn_end", CPU_SECONDS)
    except BadInputError:
        return ""
    return str(end)


def _as_json(conversation: Conversation, name: str) -> dict[str, Any]:
    """Turns a chat into JSON's values; raises BadInputError for what a table holds besides."""
    try:
        values = dataclasses.asdict(conversation)
        json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"{name}: the chat holds what JSON cannot ({error})") from None
    return values


def _run(
    template: TemplateSource,
    conversations: Sequence[Conversation],
    names: Sequence[str],
    wanted: str,
    cpu_seconds: int,
) -> list[Any]:
    job = {
        "source": template.source,
        "tool_use": template.tool_use,
        "variables": dict(template.variables),
        "cpu_seconds": cpu_seconds,
        "wanted": wanted,
        "conversations": list(map(_as_json, conversations, names)),
    }
    ended = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(job),
        capture_output=True,
        check=False,
        encoding="ascii",
        errors="replace",
    )
    lines = ended.stdout.splitlines()
    results = []
    for name, line in zip(names, lines, strict=False):
        result = json.loads(line)
        if "error" in result:
            raise BadInputError(f"{name}: {result['error']} ({template.where})")
        if not _is_unicode(json.dumps(result, ensure_ascii=False)):
            raise BadInputError(f"{name}: the messages have lone surrogates; mend the text")
        results.append(result["result"])
    if len(results) < len(conversations):
        if ended.returncode > 0:
            raise RuntimeError(f"the process that renders chats failed: {ended.stderr[-2000:]}")
        raise BadInputError(
            f"{names[len(results)]}: the chat template takes too much time or memory "
            f"({template.where}); use another one, or give prompt and completion"
        )
    return results


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def work(read: IO[str], write: IO[str]) -> None:
    """Renders a job's conversations: one JSON object in, a line for each conversation out."""
    from .template import ChatTemplate, ChatTemplateError
    from .turns import Turns

    job = json.load(read)
    _allow(job["cpu_seconds"])
    try:
        turns = Turns(ChatTemplate(job["source"], job["variables"], job["tool_use"]))
    except ChatTemplateError as error:
        write.write(json.dumps({"error": str(error)}) + "\n")
        return
    for plain in job["conversations"]:
        _allow(job["cpu_seconds"])
        try:
            result = {"result": _wanted(turns, job["wanted"], Conversation(**plain))}
        except (ChatTemplateError, MemoryError) as error:
            result = {"error": str(error) or "the chat template takes too much memory"}
        write.write(json.dumps(result) + "\n")
        write.flush()
        if "error" in result:
            return


def _wanted(turns: Turns, wanted: str, conversation: Conversation) -> Any:
    if wanted == "prompt":
        return turns.prompt(conversation)
    if wanted == "turn_end":
        return turns.turn_end()
    return [dataclasses.asdict(sample) for sample in turns.samples(conversation)]


def _allow(cpu_seconds: int) -> None:
    """Ends the process when it has taken so much more than it has now."""
    limit = math.ceil(time.process_time()) + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """Takes on the limits and works."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    work(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
