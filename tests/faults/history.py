"""One history: a world and faults at moments, both drawn from a seed; played to its end."""

import collections
import dataclasses
import random
from unittest import mock

from coordinator.protocol.events import Lost
from coordinator.session import experience
from coordinator.session.goals import training
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from tests.faults.claims import check_end, check_failure
from tests.faults.generating import GeneratingLaboratory, draw_generating_world
from tests.faults.laboratory import Laboratory, Lie
from tests.faults.tuning import TuningLaboratory, draw_tuning_world
from tests.faults.worlds import draw_world

KINDS = {
    "kill": 6,
    "start": 6,
    "freeze": 3,
    "wake": 3,
    "cut": 2,
    "drop": 1,
    "unreachable": 1,
    "lie": 3,
    "accuse": 1,
    "refuse": 2,
    "relief": 2,
    "recover": 2,
    "repeat": 4,
    "tick": 2,
    "resume": 2,
}
"""Kinds of faults, and how often each is drawn."""

MOST_EVENTS = 20_000
MOST_IDLE = 400
IDLE_SECONDS = 13.0


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that happens after so many steps; ``pick`` chooses whom it meets."""

    at: int
    kind: str
    pick: int


@dataclasses.dataclass(frozen=True)
class History:
    """A seed of the world and of the interleaving, and the faults."""

    seed: int
    faults: tuple[Fault, ...]

    @property
    def generates(self) -> bool:
        """Whether prompts are continued in it, as in one of eight, or an adapter trained."""
        return self.seed % 8 == 7

    @property
    def tunes(self) -> bool:
        """Whether settings are compared in it, as in one of sixteen."""
        return self.seed % 16 == 13


def draw_history(seed: int) -> History:
    """One to eight faults, most of them in the first few hundred steps."""
    chance = random.Random(seed)
    kinds = chance.choices(list(KINDS), list(KINDS.values()), k=chance.randint(1, 8))
    span = chance.choice((60, 150, 300, 600))
    faults = [Fault(chance.randint(0, span), kind, chance.randint(0, 10**6)) for kind in kinds]
    if seed % 8 == 3:
        faults.append(Fault(0, "stray", 0))
    if seed % 16 == 13:
        faults.append(Fault(0, "interrupt", chance.randint(0, 10**6)))
    return History(seed, tuple(sorted(faults, key=lambda fault: fault.at)))


def play(history: History) -> Laboratory:
    """Plays it to its end.

    Raises:
        AssertionError: something that must hold does not.
    """
    chance = random.Random(history.seed + 1)
    if history.generates:
        generating = draw_generating_world(chance)
        return _Player(history, GeneratingLaboratory(generating, chance), chance).play()
    if history.tunes:
        tuning = draw_tuning_world(chance)
        return _Player(history, TuningLaboratory(tuning, chance), chance).play()
    world = draw_world(chance)
    parts = mock.patch.object(training, "PART_SECONDS", world.part_seconds)
    with parts, mock.patch.object(experience, "ENOUGH_STEPS", 1):
        return _Player(history, Laboratory(world, chance), chance).play()


class _Player:
    def __init__(self, history: History, lab: Laboratory, chance: random.Random) -> None:
        self._lab, self._chance = lab, chance
        self._faults = collections.deque(history.faults)
        self._returns = chance.random() < 0.6
        self._idle = 0
        self._strays = False
        self._astray: DeviceId | None = None
        self._interruption: Fault | None = None

    def play(self) -> Laboratory:
        lab, events = self._lab, 0
        while not lab.over:
            events += 1
            assert events < MOST_EVENTS, "the session does not come to an end"
            while self._faults and self._faults[0].at <= events:
                self._strike(self._faults.popleft())
            if self._strays:
                self._go_astray()
            if self._interruption is not None:
                self._interrupt_tuning(self._interruption)
            if lab.undetected and self._chance.random() < 0.03:
                lab.detect(min(lab.undetected))
            if lab.over:
                break
            if lab.advance(self._chance):
                self._idle = 0 if lab.session.phase != "waiting" else self._idle
            elif not self._pass_time():
                return lab
        if lab.failure is not None:
            check_failure(lab)
        else:
            check_end(lab)
        return lab

    def _pass_time(self) -> bool:
        """Nothing can happen at once; False if the session waits as it should."""
        lab = self._lab
        self._idle += 1
        if self._idle > 3 and self._faults:
            self._strike(self._faults.popleft())
            return True
        if self._idle > 8 and lab.undetected:
            lab.detect(min(lab.undetected))
            return True
        if self._idle == 60:  # that is 13 minutes: whoever hangs amid work must be found by then
            amid = lab.session.phase in ("filling", "training", "generating")
            assert not amid, f"nobody is found to hang while {lab.session.phase}: {lab.frozen}"
        if self._idle == 60 or self._idle == 200:
            self._bring_back(everybody=self._idle == 200)
        if self._idle > MOST_IDLE:
            may = [
                name for name in lab.devices if name not in lab.session.state.members.quarantined
            ]
            waits = lab.session.phase == "waiting" and not lab.world.feasible(may)
            assert waits, f"nothing goes on: {lab.session.phase}, {lab.session.state.waits_for}"
            return False
        lab.awaken()
        lab.tick(IDLE_SECONDS)
        return True

    def _bring_back(self, *, everybody: bool) -> None:
        """After the last fault, devices come back if they have to, or by chance."""
        lab = self._lab
        if everybody or self._returns or not lab.world.feasible(lab.usable):
            for name in lab.devices:
                lab.wake(name)
                if name in lab.down:
                    lab.start_again(name)

    def _strike(self, fault: Fault) -> None:
        lab = self._lab
        names = list(lab.devices)
        name = names[fault.pick % len(names)]
        other = names[fault.pick // 7 % len(names)]
        getattr(self, f"_{fault.kind}")(name, other, fault)

    # ---- kinds

    def _up(self, name: DeviceId) -> bool:
        return name not in self._lab.down and name in self._lab.joined

    def _kill(self, name: DeviceId, _: DeviceId, __: Fault) -> None:
        if self._up(name):
            self._lab.kill(name)

    def _start(self, name: DeviceId, _: DeviceId, fault: Fault) -> None:
        down = sorted(self._lab.down)
        if down:
            self._lab.start_again(down[fault.pick % len(down)])

    def _freeze(self, name: DeviceId, _: DeviceId, __: Fault) -> None:
        if self._up(name):
            self._lab.freeze(name)
            self._lab.offences[name] += 1

    def _wake(self, name: DeviceId, _: DeviceId, fault: Fault) -> None:
        frozen = sorted(self._lab.frozen)
        if frozen:
            self._lab.wake(frozen[fault.pick % len(frozen)])

    def _cut(self, name: DeviceId, other: DeviceId, _: Fault) -> None:
        if name != other:
            self._lab.cut(name, other)

    def _drop(self, name: DeviceId, other: DeviceId, _: Fault) -> None:
        if name != other:
            self._lab._mesh[name, other].clear()

    def _unreachable(self, name: DeviceId, other: DeviceId, _: Fault) -> None:
        if name != other:
            self._lab.devices[name].unreachable.add(other)

    def _lie(self, name: DeviceId, _: DeviceId, fault: Fault) -> None:
        if self._up(name):
            # Most lies are told before there is a state to be saved.
            only = m.TrainerState if fault.pick % 3 == 0 else None
            self._lab.lies[name] = Lie(random.Random(fault.pick), only)

    def _accuse(self, name: DeviceId, other: DeviceId, _: Fault) -> None:
        lab = self._lab
        if self._up(name) and name != other and lab.devices[name].session:
            tag = lab.devices[name]._own_tag
            lab._post(name)(m.Rejected(peer=other, reason="made up"), tag)
            lab.offences[other] += 1
            lab.offences[name] += 1  # who says so again, and alone, fails by it

    def _refuse(self, name: DeviceId, _: DeviceId, __: Fault) -> None:
        if self._up(name):
            self._lab.refusing.add(name)
            self._lab.offences[name] += 1

    def _relief(self, name: DeviceId, _: DeviceId, fault: Fault) -> None:
        self._relieve(name, "battery at 10%")

    def _recover(self, name: DeviceId, _: DeviceId, fault: Fault) -> None:
        self._relieve(name, "")

    def _relieve(self, name: DeviceId, reason: str) -> None:
        device = self._lab.devices[name]
        if self._up(name) and device.session and name not in self._lab.frozen:
            self._lab._post(name)(m.Relief(reason=reason), device._own_tag)

    def _repeat(self, _: DeviceId, __: DeviceId, fault: Fault) -> None:
        said = self._lab.said
        for i in range(5):
            if said and not self._lab.over:
                self._lab.repeat(said[(fault.pick + i * 131) % len(said)])

    def _tick(self, _: DeviceId, __: DeviceId, fault: Fault) -> None:
        self._lab.tick(fault.pick % 10)

    def _stray(self, _: DeviceId, __: DeviceId, ___: Fault) -> None:
        """From now on the first trainer that is ahead of another may get lost, see below."""
        self._strays = True

    def _go_astray(self) -> None:
        """Has a trainer hang that is a step ahead, and come back to another coordinator.

        By then the others have applied that step as well, without it: replicas of equal step,
        but not equal to the last bit.
        """
        lab = self._lab
        replicas = {
            name: lab.devices[name].trainer.replica
            for name in lab.session.state.owners
            if self._up(name) and name not in lab.frozen
        }
        steps = {name: replica.step for name, replica in replicas.items() if replica is not None}
        if self._astray is None:
            if len(steps) > 1 and min(steps.values()) + 1 == max(steps.values()):
                ahead = self._astray = max(steps, key=lambda name: steps[name])
                lab.freeze(ahead)
                for pair, queue in lab._mesh.items():
                    if pair[0] == ahead:
                        queue.clear()
                lab.tell(Lost(device=ahead, reason="silent"))
            return
        stray = lab.devices[self._astray].trainer.replica
        if stray is None or self._astray not in lab.frozen:
            self._strays = False
        elif any(r == stray and r.rounding != stray.rounding for r in replicas.values()):
            self._strays = False
            lab.resume(f"s{lab.sessions + 1}")
            lab.wake(self._astray)

    def _interrupt(self, _: DeviceId, __: DeviceId, fault: Fault) -> None:
        """Something befalls the device that tunes, once it has settings behind a stop."""
        self._interruption = fault if fault.pick % 4 else None

    def _interrupt_tuning(self, fault: Fault) -> None:
        lab = self._lab
        race, name = lab.session.record.race, getattr(lab, "trains", None)
        if name is not None and race is not None and race.reached and self._up(name):
            self._interruption = None
            strike = (self._kill, self._freeze, self._refuse)[fault.pick % 3]
            strike(name, name, fault)

    def _resume(self, _: DeviceId, __: DeviceId, fault: Fault) -> None:
        if not self._lab.over:
            self._lab.resume(f"s{self._lab.sessions + 1}")
