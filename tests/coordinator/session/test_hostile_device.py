"""Whatever a device of the session sends, in whatever phase, the session does not break."""

import contextlib
import itertools
import random

import pytest

from coordinator.protocol.events import Received
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode
from edge_runtime.contract.errors import DecodeError, UserError
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fakes.cluster import Cluster
from tests.coordinator.session.histories import plan_of, play, scenario_of
from tests.edge_runtime.contract.examples import EXAMPLES, mutations

ROGUE = DeviceId("d1")
FROM_DEVICES = {m.answers.__name__, m.telemetry.__name__}
ANSWERS = tuple(
    message
    for message in EXAMPLES
    if type(message).__module__ in FROM_DEVICES and not isinstance(message, m.Hello)
)
SCENARIO = scenario_of(plan_of((0,), (1,)), train=[1, 2, 3], evaluation=[4, 5])


def hostile_message(chance: random.Random, awaited: tuple[type[m.Message], ...]) -> m.Message:
    """One that the decoder lets through, of a type that is awaited if any is."""
    fitting = tuple(message for message in ANSWERS if type(message) in awaited)
    for frames in mutations(chance.randrange(1 << 30), fitting or ANSWERS):
        with contextlib.suppress(DecodeError):
            return decode(frames)
    raise AssertionError


class Besieged(Cluster):
    """A cluster one of whose devices answers with lies now and then."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.asked: dict[type[m.Message], int] = {}

    def _send(self, name, message, tag):
        if name == ROGUE and type(message) in m.ANSWER_OF:
            self.asked[m.ANSWER_OF[type(message)]] = tag.reply
        if name not in self.ever or self.over:
            return
        super()._send(name, message, tag)

    def check_said(self, name, message):
        """Honest devices may refuse what a lie made the session ask for."""

    def _note_stored(self, device, message):
        """Lies count as nothing here."""

    def _note_lease(self, message):
        """Likewise."""


def besiege(seed: int, messages: int) -> int:
    """Plays a session in which a device lies again and again; returns how often it could."""
    chance, said = random.Random(seed), 0
    scenario = SCENARIO
    cluster = Besieged(scenario.job, scenario.profiles, scenario.held, 3)
    begin = chance.randrange(1, 120)
    while not cluster.over and said < messages:
        if ROGUE in cluster.joined and begin <= 0 and chance.random() < 0.5:
            owed = (kind for (name, kind), n in cluster.owed.items() if n > 0 and name == ROGUE)
            message = hostile_message(chance, tuple(owed) if chance.random() < 0.8 else ())
            reply, term = cluster.asked.get(type(message), 0), cluster.session.state.term
            cluster.tell(Received(device=ROGUE, message=message, term=term, reply=reply))
            said += 1
        begin -= 1
        if not cluster.advance(chance):
            break
    assert cluster.failure is None or isinstance(cluster.failure, UserError)
    return said


def test_a_session_ends_well_without_lies():
    assert play(SCENARIO, 1).finished


@pytest.mark.parametrize("seed", range(2))
def test_no_lie_breaks_a_session(seed):
    said = 0
    for attempt in itertools.count(1000 * seed):
        said += besiege(attempt, 10)
        if said > 60:
            break
