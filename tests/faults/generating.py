"""Histories in which prompts are continued: a world, its cluster, and what must hold at the end."""

import dataclasses
import random

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.test_generating import (
    BLOCKS,
    GeneratingDevice,
    generating_job,
    text_of,
)
from tests.faults.laboratory import Laboratory
from tests.faults.worlds import World, plan_for

SHARDS = 3
FIRST = Plan(
    stages=(Stage(first=0, last=BLOCKS, devices=(StageDevice(device=DeviceId("d0")),)),),
    owners=(Owner(device=DeviceId("d0"), shards=tuple(range(SHARDS))),),
    num_shards=SHARDS,
    micro_batch_size=2,
)
"""What a job is made with; the real plans are made of whoever is here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratingWorld(World):
    """Besides, the texts that an undisturbed run writes."""

    texts: list[list[int]]


def draw_generating_world(chance: random.Random) -> GeneratingWorld:
    """Two to four devices, one to seven prompts; a decoder, or an encoder-decoder."""
    names = [DeviceId(f"d{i}") for i in range(chance.randint(2, 4))]
    roles = ["both", *(chance.choice(("both", "both", "runs", "owns")) for _ in names[1:])]
    profiles = {
        name: profile(
            name,
            layer=None if role == "owns" else 1e-5,
            train=None if role == "runs" else 1e-3,
        )
        for name, role in zip(names, roles, strict=True)
    }
    encoder_blocks = chance.choice((0, 0, 1, BLOCKS - 1))
    task = "seq2seq" if encoder_blocks else "causal-lm"
    model = manifest([1] * BLOCKS, encoder_blocks=encoder_blocks, task=task)
    rows = [
        [chance.randint(1, 8) for _ in range(chance.randint(1, 4))]
        for _ in range(chance.randint(1, 7))
    ]
    enough = chance.randint(1, min(3, sum(role != "owns" for role in roles)))
    plain = generating_job(model, FIRST, profiles, rows)
    job = dataclasses.replace(
        plain,
        session="s1",
        run="r",
        wait_seconds=None,
        make_plan=lambda measured: plan_for(measured, plain, enough, blocks=BLOCKS),
    )
    lengths = [1 if encoder_blocks else len(row) for row in rows]
    return GeneratingWorld(
        job=job,
        profiles=profiles,
        held={},
        enough=enough,
        part_seconds=20.0,
        late=frozenset(name for name in names[1:] if chance.random() < 0.15),
        rooms={},
        texts=[text_of(line, length) for line, length in enumerate(lengths)],
    )


class GeneratingLaboratory(Laboratory):
    """Devices that pass new rows on and choose tokens."""

    def __init__(self, world: GeneratingWorld, chance: random.Random) -> None:
        super().__init__(world, chance)
        self.texts = world.texts
        for name in self.devices:
            self._make_anew(name)

    def _make_anew(self, name: DeviceId) -> None:
        self.devices[name] = GeneratingDevice(self.profiles[name], set(), 0, self.job.manifest)

    def start_again(self, name: DeviceId) -> None:
        super().start_again(name)
        self._make_anew(name)

    def _note_lease(self, message: m.Message) -> None:
        """Steps of prompts are no leases."""

    def _post(self, name: DeviceId):
        post = super()._post(name)

        def lie(message: m.Message, tag: Tag) -> None:
            if isinstance(message, m.NextTokens) and (chance := self.lie(name, type(message))):
                message = dataclasses.replace(message, **_lie(message, chance))
            post(message, tag)

        return lie


def _lie(message: m.NextTokens, chance: random.Random) -> dict[str, object]:
    return chance.choice(
        (
            {"number": message.number + 1000},
            {"lines": message.lines + 1},
            {"tokens": np.full_like(message.tokens, 10**6)},
            {"tokens": message.tokens - 10**6},
        )
    )


def check_texts(lab: GeneratingLaboratory) -> None:
    """Every prompt is answered once, by what an undisturbed run writes."""
    generation = lab.session.record.generation
    assert generation is not None
    assert generation.tokens == lab.texts, "other texts than undisturbed"
    assert generation.ended == set(range(len(lab.texts)))
    ended = [event for event in lab.events if event.event == "generation_finished"]
    assert 1 <= len(ended) <= lab.sessions, "not told once"
