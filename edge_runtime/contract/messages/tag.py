"""Says what a message belongs to: its session, its term, and the request that it answers."""

import dataclasses

from edge_runtime.contract.checks import require

MAX_SESSION_LENGTH = 64
MAX_NUMBER = 1 << 53


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """Belongs to every message, in front of its fields.

    Attributes:
        session: drawn when the coordinator's session began; empty before a device knows it.
        term: of the plan that the message serves; rises whenever a plan ends. 0 for what does not
            depend on a plan, such as a device's profile.
        reply: number of a request; of an answer, that of the request which it answers. 0 for
            messages that nobody waits for.
    """

    session: str = ""
    term: int = 0
    reply: int = 0

    def __post_init__(self) -> None:
        require(len(self.session) <= MAX_SESSION_LENGTH, "session is too long")
        numbers = min(self.term, self.reply) >= 0 and max(self.term, self.reply) <= MAX_NUMBER
        require(numbers, f"term and reply must be between 0 and {MAX_NUMBER}")


UNTAGGED = Tag()
