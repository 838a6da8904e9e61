"""Renders conversations in a process of its own, bounded in time and memory.

The sandbox keeps a template from files and from Python's insides, but not from looping for
ever or from asking for all memory; a process that has limits can simply be lost.
"""

import dataclasses
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO

from edge_runtime.contract.errors import BadInputError

from .chat_template import ChatTemplate, ChatTemplateError, Message, Rendered

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
    """

    where: str
    source: str
    variables: Mapping[str, str]


def render_conversations(
    template: TemplateSource,
    conversations: Sequence[Sequence[Message]],
    names: Sequence[str],
    cpu_seconds: int = CPU_SECONDS,
    *,
    prompts: bool = False,
) -> list[Rendered]:
    """Renders every conversation.

    Args:
        template: of the bundle.
        conversations: messages of each.
        names: what to call each of them in an error.
        cpu_seconds: what each of them may take.
        prompts: write them up to where the assistant's next turn begins; no turns then.

    Raises:
        BadInputError: the template fails, cannot be split, or takes too long or too much.
    """
    job = {
        "source": template.source,
        "variables": dict(template.variables),
        "cpu_seconds": cpu_seconds,
        "prompts": prompts,
        "conversations": [list(conversation) for conversation in conversations],
    }
    ended = subprocess.run(
        [sys.executable, "-m", "coordinator.tokenization.sandbox"],
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
        if not _is_unicode(result["text"]):
            raise BadInputError(f"{name}: the messages have lone surrogates; mend the text")
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


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def work(read: IO[str], write: IO[str]) -> None:
    """Renders a job's conversations: one JSON object in, a line for each conversation out."""
    job = json.load(read)
    _allow(job["cpu_seconds"])
    try:
        template = ChatTemplate(job["source"], job["variables"])
    except ChatTemplateError as error:
        write.write(json.dumps({"error": str(error)}) + "\n")
        return
    for conversation in job["conversations"]:
        _allow(job["cpu_seconds"])
        try:
            if job.get("prompts"):
                result = {"text": template.prompt(conversation), "spans": []}
            else:
                result = dataclasses.asdict(template.conversation(conversation))
        except (ChatTemplateError, MemoryError) as error:
            result = {"error": str(error) or "the chat template takes too much memory"}
        write.write(json.dumps(result) + "\n")
        write.flush()
        if "error" in result:
            return


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
