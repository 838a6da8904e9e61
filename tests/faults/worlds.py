"""Draws small runs from a seed: devices, lines, caches, and a plan for whoever is here."""

import dataclasses
import functools
import random
from collections.abc import Mapping, Sequence

from coordinator.protocol.job import Job, Keep
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.plan import Owner, Plan, Prediction, Stage, StageDevice
from edge_runtime.contract.profile import DeviceProfile
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.fakes.cache import CacheEntry
from tests.coordinator.session.fakes.judge import FakeJudge
from tests.coordinator.session.scenarios import job_of, key_of

_KEYS = functools.lru_cache(None)(key_of)

BLOCKS = 2
LAYERS = (0, 1)
NUM_TEXTS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A job, and the devices that there are.

    Attributes:
        enough: backbone devices that hold the backbone together.
        part_seconds: after which the state is saved; fake events take a millisecond.
        late: devices that are not there at the beginning.
        rooms: samples that a device's disk has room for, and bytes of its memory besides.
        paces: seconds that a trainer's own computing takes it for each of its samples.
        losses: on evaluation samples, after each epoch.
    """

    job: Job
    profiles: Mapping[DeviceId, DeviceProfile]
    held: Mapping[DeviceId, set[CacheEntry]]
    enough: int
    part_seconds: float
    late: frozenset[DeviceId]
    rooms: Mapping[DeviceId, tuple[int, int]]
    paces: Mapping[DeviceId, float] = dataclasses.field(default_factory=dict)
    losses: tuple[float, ...] = ()

    @property
    def last_epoch(self) -> int:
        """After which training is to end."""
        job = self.job
        for epoch in range(1, len(self.losses) + 1):
            since = epoch - self.best_epoch(epoch)
            if job.evaluates_epochs and job.patience and since >= job.patience:
                return epoch
        return job.options.epochs

    def best_epoch(self, up_to: int) -> int:
        """The earliest of the epochs with the lowest loss."""
        seen = self.losses[:up_to]
        return seen.index(min(seen)) + 1

    def feasible(self, devices: Sequence[DeviceId]) -> bool:
        """These devices can do the work."""
        try:
            plan_for([self.profiles[name] for name in devices], self.job, self.enough)
        except InfeasibleError:
            return False
        return True


def plan_for(
    measured: Sequence[DeviceProfile],
    job: Job,
    enough: int,
    fill_seconds: float | None = None,
    blocks: int = BLOCKS,
) -> Plan:
    """As many stages as are needed, all trainers; deterministic, as the planner is."""
    runs = [each.device for each in measured if each.blocks]
    trains = [each.device for each in measured if each.trainer is not None]
    trains = trains[: job.options.batch_size]
    if len(runs) < enough or not trains:
        raise InfeasibleError(f"{len(runs)} devices do not hold the backbone, {len(trains)} train")
    shards = range(job.options.batch_size)
    cut = [0, *range(1, enough), blocks]
    stages = tuple(
        Stage(
            first=cut[i],
            last=cut[i + 1],
            devices=tuple(
                StageDevice(device=name, share=1 / len(runs[i::enough])) for name in runs[i::enough]
            ),
        )
        for i in range(enough)
    )
    owners = tuple(
        Owner(device=name, shards=tuple(shards[i :: len(trains)])) for i, name in enumerate(trains)
    )
    return Plan(
        stages=stages,
        owners=owners,
        num_shards=len(shards),
        micro_batch_size=2,
        predicted=None
        if fill_seconds is None
        else Prediction(
            total_seconds=fill_seconds, fill_seconds=fill_seconds, epoch_seconds=0.0, devices={}
        ),
    )


def draw_world(chance: random.Random) -> World:
    """Two to four devices, up to 14 lines, up to three epochs."""
    profiles, enough = _draw_devices(chance)
    names = list(profiles)
    texts = range(NUM_TEXTS)
    train = chance.choices(texts, k=chance.randint(1, 14))
    size = chance.randint(1, 4)
    base = Plan(
        stages=(Stage(first=0, last=BLOCKS, devices=(StageDevice(device=names[0]),)),),
        owners=(Owner(device=names[0], shards=tuple(range(size))),),
        num_shards=size,
        micro_batch_size=2,
    )
    drawn = job_of(
        base,
        profiles,
        layers=LAYERS,
        train=train,
        evaluation=chance.choices(texts, k=chance.randint(0, 5)),
        epochs=chance.randint(1, 3),
        seed=chance.randint(0, 3),
        model=_model(language=sum(train) % 4 == 0),
    )
    # After a loss, samples are computed for a second, two, four, ... before steps are applied.
    fill_seconds = chance.choice((None, 5.0))
    job = dataclasses.replace(
        drawn,
        session="s1",
        run="r",
        evaluate_before=chance.random() < 0.5,
        wait_seconds=None,
        make_plan=lambda measured: plan_for(measured, drawn, enough, fill_seconds),
        judge=FakeJudge(size) if chance.random() < 0.5 else None,
    )
    held = {
        name: {(_KEYS(text), layer) for text in chance.sample(texts, 4) for layer in LAYERS}
        for name in names
        if profiles[name].trainer is not None and chance.random() < 0.3
    }
    late = frozenset(name for name in names[1:] if chance.random() < 0.15)
    unsure = chance.sample(names, chance.randint(0, len(names)))
    job = dataclasses.replace(job, worth_measuring=lambda _: dict.fromkeys(unsure, 0.5))
    job, losses = _draw_keeping(job, random.Random(f"{train} {size} {job.options.seed}"))
    return World(
        job=job,
        profiles=profiles,
        held=held,
        enough=enough,
        part_seconds=chance.choice((20.0, 0.02, 0.05)),
        late=late,
        rooms=_draw_rooms(chance, job),
        paces={name: 1e-3 * chance.choice((1, 2, 5)) for name in names},
        losses=losses,
    )


def _draw_devices(chance: random.Random) -> tuple[dict[DeviceId, DeviceProfile], int]:
    """The first one runs and trains; some hold the backbone together, see :class:`World`."""
    names = [DeviceId(f"d{i}") for i in range(chance.randint(2, 4))]
    roles = [chance.choice(("both", "both", "both", "runs", "trains")) for _ in names]
    roles[0] = "both"
    profiles = {
        name: profile(
            name,
            layer=None if role == "trains" else 1e-5,
            train=None if role == "runs" else 1e-3,
        )
        for name, role in zip(names, roles, strict=True)
    }
    running = sum(role != "trains" for role in roles)
    enough = chance.randint(1, min(BLOCKS, running))
    return profiles, enough


def _model(*, language: bool) -> Manifest:
    """A classifier, or a language model, whose trainers must sample the same tokens."""
    if language:
        return manifest([1] * BLOCKS, encoder_blocks=0, task="causal-lm")
    return manifest([1] * BLOCKS)


def _draw_keeping(job: Job, chance: random.Random) -> tuple[Job, tuple[float, ...]]:
    """Which epoch is kept, when to stop, and the losses by which that is decided."""
    losses = tuple(chance.choice((1.0, 2.0, 3.0)) for _ in range(job.options.epochs))

    def score(outputs: Array) -> dict[str, float]:
        (epoch,) = set(outputs[:, 1].tolist())  # all outputs are of one adapter
        return {"loss": losses[int(epoch) - 1]}

    keep: Keep = chance.choice(("best", "best", "last"))
    patience = chance.choice((0, 0, 1, 1, 2))
    return dataclasses.replace(job, keep=keep, patience=patience, score=score), losses


def _draw_rooms(chance: random.Random, job: Job) -> dict[DeviceId, tuple[int, int]]:
    """Some disks are small; the memory has room for the samples of at least one step."""
    largest = 3 * len(LAYERS) * row_bytes(job.cache_dtype, job.manifest.hidden_size)
    step = largest * job.options.batch_size
    return {
        name: (chance.randint(0, NUM_TEXTS // 2), step * chance.randint(1, 3))
        for name in job.devices
        if chance.random() < 0.2
    }
