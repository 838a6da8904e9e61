"""Renders conversations in a process of its own, bounded in time and memory.

The sandbox keeps a template from files and from Python's insides, but not from looping for
ever or from asking for all memory; a process that has limits can simply be lost.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from edge_runtime.contract.errors import BadInputError

from .chat import ChatTemplate, ChatTemplateError, Message, Rendered

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 20
CPU_SECONDS_PER_MESSAGE = 0.05
"""A message of a long conversation takes some milliseconds on a slow board."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSource:
    """A chat template before anybody has looked at it.

    Attributes:
        where: the file that it is in.
        source: jinja2.
        variables: special tokens by name.
    """

    where: str
    source: str
    variables: Mapping[str, str]


def render_conversations(
    template: TemplateSource,
    conversations: Sequence[Sequence[Message]],
    names: Sequence[str],
    cpu_seconds: float = CPU_SECONDS,
) -> list[Rendered]:
    """Renders every conversation.

    Args:
        template: of the bundle.
        conversations: messages of each.
        names: what to call each of them in an error.
        cpu_seconds: what is allowed besides the messages' share.

    Raises:
        BadInputError: the template fails, cannot be split, or takes too long or too much.
    """
    messages = sum(map(len, conversations))
    job = {
        "source": template.source,
        "variables": dict(template.variables),
        "cpu_seconds": round(cpu_seconds + CPU_SECONDS_PER_MESSAGE * messages),
        "conversations": [list(conversation) for conversation in conversations],
    }
    ended = subprocess.run(
        [sys.executable, "-m", "coordinator.chat_process"],
        input=json.dumps(job),
        capture_output=True,
        check=False,
        encoding="ascii",
        errors="replace",
    )
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    rendered = []
    for name, result in zip(names, results, strict=False):
        if "error" in result:
            raise BadInputError(f"{name}: {result['error']} ({template.where})")
        spans = tuple((start, end) for start, end in result["spans"])
        rendered.append(Rendered(text=result["text"], spans=spans))
    if len(rendered) < len(conversations):
        if ended.returncode > 0:
            raise RuntimeError(f"the process that renders chats failed: {ended.stderr[-2000:]}")
        raise BadInputError(
            f"{names[len(rendered)]}: the chat template takes too much time or memory "
            f"({template.where}); use another one, or give prompt and completion"
        )
    return rendered


def work(read: IO[str], write: IO[str]) -> None:
    """What the process does: a job as one JSON object in, a line for each conversation out."""
    job = json.load(read)
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_seconds"], job["cpu_seconds"]))
    try:
        template = ChatTemplate(job["source"], job["variables"])
    except ChatTemplateError as error:
        write.write(json.dumps({"error": str(error)}) + "\n")
        return
    for conversation in job["conversations"]:
        try:
            result = dataclasses.asdict(template.conversation(conversation))
        except (ChatTemplateError, MemoryError) as error:
            result = {"error": str(error) or "the chat template takes too much memory"}
        write.write(json.dumps(result) + "\n")
        write.flush()
        if "error" in result:
            return


def main() -> None:
    """Takes on the limits and works."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    work(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
