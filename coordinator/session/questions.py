"""Keeps what devices were asked for and have not answered yet. Pure.

Every request has a number, which its answer repeats: what nobody waits for any more is told
from what is due. Requests of a plan end with its term; others, such as for a profile, do not.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeAlias

from coordinator.protocol.actions import Action, Send, SendProfileRequest, SendStage
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId

Request: TypeAlias = m.Message | SendProfileRequest | SendStage
"""A message, or an action whose message the server makes."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request that is made when it is sent: some are large, and most are asked already.

    Attributes:
        kind: of the message.
        make: makes it.
        key: tells it from others of its kind; equal ones are not sent twice.
        of_plan: it is void when the plan ends.
        changes_stage: once it is sent, it is not known any more which blocks are loaded.
    """

    kind: type[m.Message]
    make: Callable[[], Request]
    key: Hashable = None
    of_plan: bool = True
    changes_stage: bool = False


@dataclasses.dataclass(slots=True)
class Question:
    """A request that is on its way or in work.

    Attributes:
        number: of the request.
        ask: what was asked for.
        term: that it belongs to; 0 for those of no plan.
        since: when it was sent.
    """

    number: int
    ask: Ask
    term: int
    since: float


class Questions:
    """The book of requests: for each device one of each kind."""

    def __init__(self) -> None:
        self._open: dict[tuple[DeviceId, type[m.Message]], Question] = {}
        self._number = 0

    def ask(self, device: DeviceId, ask: Ask, term: int, now: float) -> list[Action]:
        """Sends a request, unless the device has it already; it takes the place of another."""
        known = self._open.get((device, ask.kind))
        if known is not None and known.ask.key == ask.key:
            return []
        self._number += 1
        of_term = term if ask.of_plan else 0
        self._open[device, ask.kind] = Question(self._number, ask, of_term, now)
        match ask.make():
            case m.Message() as message:
                return [Send(device=device, message=message, term=of_term, reply=self._number)]
            case SendStage() as stage:
                return [dataclasses.replace(stage, term=of_term, reply=self._number)]
            case profile:
                return [dataclasses.replace(profile, reply=self._number)]

    def due(self, device: DeviceId, message: m.Message, reply: int) -> Question | None:
        """Finds the question that a message answers; None for an answer that nobody waits for."""
        for (asked, kind), question in self._open.items():
            if asked == device and question.number == reply:
                return question if m.ANSWER_OF[kind] is type(message) else None
        return None

    def is_open(self, device: DeviceId, reply: int) -> bool:
        """True if the device still owes the answer to request ``reply``."""
        return any(
            asked == device and question.number == reply
            for (asked, _), question in self._open.items()
        )

    def close(self, device: DeviceId, question: Question) -> None:
        """Ticks a question off."""
        del self._open[device, question.ask.kind]

    def forget(self, device: DeviceId) -> None:
        """Expects no more answers of a device."""
        for key in [key for key in self._open if key[0] == device]:
            del self._open[key]

    def forget_probes(self, peer: DeviceId) -> None:
        """Expects nobody to measure the link to a device that is gone."""
        for key, question in list(self._open.items()):
            probe = question.ask.key
            if isinstance(probe, m.ProbeLink) and probe.peer == peer:
                del self._open[key]

    def end_term(self) -> None:
        """Expects no more answers of the plan that has ended."""
        for key in [key for key, question in self._open.items() if question.term]:
            del self._open[key]

    def __iter__(self) -> Iterator[tuple[DeviceId, Question]]:
        """Every device with each of its open questions."""
        return iter([(device, question) for (device, _), question in self._open.items()])


@dataclasses.dataclass(frozen=True, slots=True)
class Todo:
    """What a goal lacks: the phase that the session is in, and requests to those who can mend it.

    Without requests it waits for something that devices do by themselves.
    """

    phase: str
    asks: Mapping[DeviceId, Ask] = dataclasses.field(default_factory=dict)
