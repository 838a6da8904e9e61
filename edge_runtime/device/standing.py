"""Knows the session and the term that a device is in, and judges messages by it. Pure."""

from typing import Literal

from edge_runtime.contract.messages.tag import Tag

Judgement = Literal["take", "later", "drop"]


class Standing:
    """One device in one session.

    Attributes:
        session: empty before the device is welcomed.
        term: the highest that the coordinator has spoken of.
    """

    def __init__(self) -> None:
        self.session, self.term = "", 0

    @property
    def tag(self) -> Tag:
        """Of what the device says on its own account."""
        return Tag(session=self.session, term=self.term)

    def admits(self, tag: Tag) -> bool:
        """Tells whether a message of the coordinator is of this session and not outdated."""
        return tag.session == self.session and not 0 < tag.term < self.term

    def of_peer(self, tag: Tag) -> Judgement:
        """Says what becomes of a peer's message; the coordinator may not have got here yet."""
        if not self.session or not self.admits(tag):
            return "drop"
        return "later" if tag.term > self.term else "take"
