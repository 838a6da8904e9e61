"""Histories in which settings are compared: a world, its cluster, and what must hold at the end."""

import dataclasses
import math
import random
from collections.abc import Sequence

import numpy as np

from coordinator.protocol.actions import Action, Record
from coordinator.tuning.design import draw_settings
from coordinator.tuning.race import Race, Reached, stops
from edge_runtime.contract import messages as m
from edge_runtime.contract.held_out import HeldOut
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.profile import DeviceProfile
from tests.coordinator.session.fakes.replica import Replica
from tests.coordinator.session.fakes.settings import FakeSettings, of_setting
from tests.coordinator.session.fakes.trainer import output_of
from tests.faults.laboratory import Laboratory
from tests.faults.worlds import NUM_TEXTS, World, draw_world


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningWorld(World):
    """Besides, what tells settings' losses and hits."""

    seed: int

    def loss(self, number: int, step: int) -> float:
        """The held-out loss of a setting after that many updates.

        Settings may diverge, all of them even; but the one asked for not in the first epoch.
        """
        known: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
        if number or step > self.job.steps_per_epoch:
            known = (*known, math.inf, math.inf)
        return random.Random(f"{self.seed} {number} {step}").choice(known)

    def correct(self, number: int, step: int) -> int:
        """How many held-out samples are given their class after that many updates.

        In every other world more of them, the higher the loss.
        """
        loss, count = self.loss(number, step), len(self.job.tables["eval"])
        if self.job.config.task != "classification" or loss == math.inf:
            return 0
        if self.seed % 2:
            return min(count, int(loss))
        few = range(min(2, count) + 1)
        return random.Random(f"{self.seed} {number} {step} right").choice(few)

    def worth(self, number: int, step: int) -> HeldOut:
        """What a setting comes to by both."""
        loss, correct = self.loss(number, step), self.correct(number, step)
        if self.job.config.task != "classification":
            return HeldOut(loss=loss)
        return HeldOut(loss=loss, accuracy=correct / len(self.job.tables["eval"]))

    def tell(self, settings: FakeSettings) -> None:
        """Has a device's settings come to that."""
        settings.loss, settings.correct = self.loss, self.correct

    def undisturbed(self) -> Race:
        """The race as it goes if nothing happens."""
        job = self.job
        count = len(job.settings)
        race = Race(settings=count, stops=stops(count, job.options.epochs, job.steps_per_epoch))
        while (stop := race.next) is not None:
            worth = {number: self.worth(number, stop.step) for number in race.left}
            seconds = dict.fromkeys(worth, 0.5)
            race = race.after(Reached(stop=stop, worth=worth, seconds=seconds, shared_seconds=0.1))
        return race


def draw_tuning_world(chance: random.Random) -> TuningWorld:
    """Two to nine settings; disks have room for all, and samples to evaluate on are there."""
    while "eval" not in (world := draw_world(chance)).job.tables:
        pass
    make_plan = world.job.make_plan
    job = dataclasses.replace(
        world.job,
        settings=draw_settings(world.job.config, world.job.options, chance.randint(2, 9)),
        make_plan=lambda measured: make_plan(_one_trainer(measured)),
        keep="last",
        patience=0,
    )
    kept = {each.name: getattr(world, each.name) for each in dataclasses.fields(world)}
    return TuningWorld(**{**kept, "job": job, "rooms": {}}, seed=chance.randint(0, 10**6))


def _one_trainer(measured: Sequence[DeviceProfile]) -> list[DeviceProfile]:
    first = next((each.device for each in measured if each.trainer is not None), None)
    return [
        each
        if each.device == first
        else dataclasses.replace(each, roles=("backbone",), trainer=None)
        for each in measured
        if each.device == first or each.blocks
    ]


class TuningLaboratory(Laboratory):
    """Checks that only what befalls the device that trains makes a tuning begin again.

    Attributes:
        trains: the device that does, while a tuning is under way.
    """

    def __init__(self, world: TuningWorld, chance: random.Random) -> None:
        super().__init__(world, chance)
        self.tuning_world = world
        self.trains: DeviceId | None = None
        for device in self.devices.values():
            world.tell(device.trainer.settings)

    def start_again(self, name: DeviceId) -> None:
        super().start_again(name)
        self.tuning_world.tell(self.devices[name].trainer.settings)

    def resume(self, session: str) -> None:
        self.trains = None
        super().resume(session)

    def _work(self, name: DeviceId) -> None:
        """Training takes a while, in which something may happen."""
        trains = isinstance(self.devices[name].jobs[0][0], m.TrainSettings)
        if trains and name not in self.refusing and self.chance.random() < 0.98:
            return
        super()._work(name)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Record(event="tuning_began"):
                (self.trains,) = self.session.state.owners
            case Record(event="setting_chosen"):
                self.trains = None
            case Record(event="term_began", fields=fields) if self.trains is not None:
                told = f"{fields['device']}: {fields['reason']}"
                assert self.trains in told, f"{self.trains} begins again: {told}"
                self.trains = None
            case _:
                pass
        super()._carry_out(action)

    def _post(self, name: DeviceId):
        post = super()._post(name)

        def lie(message: m.Message, tag: Tag) -> None:
            if isinstance(message, m.SettingsTrained) and (chance := self.lie(name, type(message))):
                message = _lie(message, chance)
            post(message, tag)

        return lie


def _lie(message: m.SettingsTrained, chance: random.Random) -> m.SettingsTrained:
    further = tuple(dataclasses.replace(each, steps=each.steps + 1) for each in message.sums)
    fewer = {name: getattr(message, name)[1:] for name in ("losses", "correct", "seconds", "sums")}
    fewer["parameters"] = message.parameters[1:]
    state = np.zeros(7, np.uint8)
    many = np.full_like(message.correct, 1 + NUM_TEXTS)
    wrong: list[dict[str, object]] = [
        {"sums": further},
        fewer,
        {"state": state},
        {"correct": many},
    ]
    return dataclasses.replace(message, **chance.choice(wrong))


def check_tuning(lab: TuningLaboratory) -> None:
    """The settings are compared as if nothing had happened, and the best one is kept."""
    record, world, job = lab.session.record, lab.tuning_world, lab.job
    assert record.race is not None
    expected = world.undisturbed()
    assert record.race.reached == expected.reached, "other losses than undisturbed"
    ends = [
        (-(each.accuracy or 0.0), each.loss, at.stop.step, number)
        for at in expected.reached
        if at.stop.ends_epoch
        for number, each in at.worth.items()
    ]
    _, _, step, number = min(end for end in ends if end[1] < math.inf)
    assert Replica.parse(record.state) == of_setting(number, step), "not the best setting's state"
    (owner,) = lab.session.state.owners
    asked = lab.devices[owner].trainer.request
    if asked is not None:  # or it was started again once it had said everything
        chosen = job.settings[number]
        assert (asked.config, asked.options) == (chosen.config, chosen.options)
    finite = [
        at // job.steps_per_epoch for _, loss, at, of in ends if of == number and loss < math.inf
    ]
    assert [epoch.epoch for epoch in record.epochs] == finite, "epochs that it has no part in"
    for outputs, done in (
        (record.outputs_before, 0),
        (record.outputs_after, step // job.steps_per_epoch),
    ):
        if outputs is not None:
            right = [output_of(line, done) for line in range(len(outputs))]
            assert np.array_equal(outputs[:, :2], right), "other outputs than undisturbed"
    assert record.outputs_after is not None, "no outputs"
    assert record.outputs_before is not None or not job.evaluate_before, "no outputs before"
    assert not lab.applied, "steps besides those of the settings"
