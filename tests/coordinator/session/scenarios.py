"""Jobs, plans and caches drawn at random for the tests of the session."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from coordinator.planner.dispatch import window
from coordinator.protocol.job import Job
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import Manifest, Stream, Task
from edge_runtime.contract.messages import EpochSums, SampleSet
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.profile import DeviceProfile
from edge_runtime.contract.sample import Ragged, Samples, sample_keys
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.fakes.cluster import Cluster
from tests.coordinator.session.fakes.device import CacheEntry
from tests.coordinator.session.fakes.replica import undisturbed
from tests.coordinator.session.fakes.trainer import count_of, loss_of

DIGEST = Sha256("ab" * 32)
NUM_TEXTS = 12


def lengths_of(text: int, model: Manifest) -> dict[Stream, int]:
    """Tokens of a text: 1 to 3 where it is read, 1 or 2 where it is written."""
    first, *second = model.streams
    return {first: 1 + text % 3, **dict.fromkeys(second, 1 + text % 2)}


def samples(texts: Sequence[int], model: Manifest | None = None) -> Samples:
    """One line for each number; equal numbers are equal texts."""
    model = model or manifest()
    tokens = [spec for spec in model.inputs if spec.kind == "tokens"]
    return Samples(
        inputs={
            spec.name: Ragged.from_rows(
                [[7 + text] * lengths_of(text, model)[spec.stream] for text in texts]
            )
            for spec in tokens
        },
        streams={spec.name: spec.stream for spec in tokens},
        second_starts=np.zeros(len(texts), np.int32),
        keys=sample_keys(DIGEST, {"text": Ragged.from_rows([[text] for text in texts])}),
    )


def key_of(text: int) -> bytes:
    return samples([text]).keys[0].tobytes()


def targets(texts: Sequence[int], model: Manifest) -> np.ndarray | Ragged:
    """Class 0; of language models, whatever follows, not counted at odd texts' beginnings."""
    if model.head is None:
        return np.zeros(len(texts), np.int64)
    return Ragged.from_rows(
        [[-(text % 2), *[text] * (lengths_of(text, model)["decoder"] - 1)] for text in texts]
    )


def table(texts: Sequence[int], batch_size: int, model: Manifest | None = None) -> SampleTable:
    model = model or manifest()
    return SampleTable.make(samples(texts, model), targets(texts, model), batch_size)


def job_of(
    plan: Plan,
    profiles: Mapping[DeviceId, DeviceProfile],
    *,
    layers: tuple[int, ...],
    train: Sequence[int],
    evaluation: Sequence[int],
    epochs: int,
    seed: int = 0,
    model: Manifest | None = None,
) -> Job:
    """A job over lines with these texts, whose plan is ready."""
    model = model or manifest()
    lines: dict[SampleSet, Sequence[int]] = {"train": train, "eval": evaluation}
    encoder = model.layers_of("encoder") if len(model.streams) == 2 else ()
    config = AdapterConfig(
        hidden_size=8,
        reduction=2,
        layers=layers,
        encoder_layers=sum(layer in encoder for layer in layers),
        task=model.task,
        num_outputs=model.head.vocab_size if model.head else 2,
    )
    size = plan.num_shards
    return Job(
        manifest=model,
        config=config,
        options=TrainingOptions(epochs=epochs, batch_size=size, seed=seed),
        tables={which: table(texts, size, model) for which, texts in lines.items() if texts},
        devices=tuple(profiles),
        make_plan=lambda measured: plan,
    )


def state_after(job: Job, steps: int) -> bytes:
    """The state of fake trainers after so many undisturbed updates."""
    table = job.tables["train"]
    tokens = np.sum(list(table.samples.lengths_of.values()), 0)
    return undisturbed(table.ranks, tokens, job.options, steps).state


def sums_of(job: Job, epoch: int) -> EpochSums:
    """The sums of a whole epoch of fake trainers."""
    table, lines = job.tables["train"], range(len(job.tables["train"]))
    return EpochSums(
        epoch=epoch,
        steps=job.steps_per_epoch,
        samples=len(table),
        count=count_of(table.targets_of(np.arange(len(table)))),
        loss_sum=sum(loss_of(line, epoch) for line in lines),
    )


def resumed(job: Job, epochs_done: int) -> Job:
    """The job with so many epochs behind it."""
    steps = epochs_done * job.steps_per_epoch
    return dataclasses.replace(
        job, state=state_after(job, steps), steps_done=steps, sums=sums_of(job, epochs_done)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """A job with the texts of its lines, its devices, and what their caches hold."""

    job: Job
    plan: Plan
    profiles: Mapping[DeviceId, DeviceProfile]
    held: Mapping[DeviceId, set[CacheEntry]]
    train: tuple[int, ...]
    eval: tuple[int, ...]

    def cluster(self) -> Cluster:
        return Cluster(self.job, self.profiles, self.held, window(self.plan))

    def whole(self, text: int) -> bool:
        """Whether some cache holds every layer of the text."""
        key = key_of(text)
        layers = self.job.config.layers
        return any(
            all((key, layer) in entries for layer in layers) for entries in self.held.values()
        )


@st.composite
def plans(draw: st.DrawFn, blocks: int, batch_size: int) -> tuple[Plan, dict]:
    """A plan over at most five devices, and their profiles (some may be left out)."""
    names = [DeviceId(f"d{i}") for i in range(draw(st.integers(1, 5)))]
    runs = [name for name in names if draw(st.booleans())] or names[:1]
    trains = [name for name in names if draw(st.booleans())] or names[-1:]
    profiles = {
        name: profile(
            name, layer=1e-5 if name in runs else None, train=1e-3 if name in trains else None
        )
        for name in names
        if name in runs or name in trains
    }
    num_stages = draw(st.integers(1, min(len(runs), blocks)))
    cuts = draw(st.permutations(range(1, blocks)))[: num_stages - 1]
    bounds = [0, *sorted(cuts), blocks]
    members = {stage: [runs[stage]] for stage in range(num_stages)}
    for name in runs[num_stages:]:
        if draw(st.booleans()):
            members[draw(st.integers(0, num_stages - 1))].append(name)
    stages = tuple(
        Stage(
            first=bounds[i],
            last=bounds[i + 1],
            devices=tuple(
                StageDevice(device=name, share=1 / len(members[i])) for name in members[i]
            ),
        )
        for i in range(num_stages)
    )
    shards: dict[DeviceId, list[int]] = {}
    for shard in range(batch_size):
        shards.setdefault(draw(st.sampled_from(trains)), []).append(shard)
    owners = tuple(Owner(device=name, shards=tuple(mine)) for name, mine in shards.items())
    plan = Plan(
        stages=stages,
        owners=owners,
        num_shards=batch_size,
        micro_batch_size=draw(st.integers(1, 4)),
    )
    return plan, profiles


@st.composite
def models(draw: st.DrawFn, blocks: int) -> Manifest:
    """An encoder to classify with, a decoder, or an encoder-decoder, of so many blocks."""
    encoder_blocks = draw(st.integers(0, blocks))
    tasks: dict[int, Task] = {blocks: "classification", 0: "causal-lm"}
    task = tasks.get(encoder_blocks, "seq2seq")
    return manifest([1] * blocks, encoder_blocks=encoder_blocks, task=task)


@st.composite
def scenarios(draw: st.DrawFn, *, training: bool | None = None) -> Scenario:
    """A job of any kind, its plan, and caches that hold nothing, parts or all of it."""
    blocks = draw(st.integers(1, 4))
    batch_size = draw(st.integers(1, 5))
    plan, profiles = draw(plans(blocks, batch_size))
    texts = st.integers(0, NUM_TEXTS - 1)
    trains = draw(st.booleans()) if training is None else training
    train = draw(st.lists(texts, min_size=1, max_size=20)) if trains else []
    evaluation = draw(st.lists(texts, min_size=0 if trains else 1, max_size=8))
    layers = tuple(sorted({*draw(st.sets(st.integers(0, blocks - 1))), blocks - 1}))
    epochs = draw(st.integers(1, 3)) if trains else 0
    job = job_of(
        plan,
        profiles,
        layers=layers,
        train=train,
        evaluation=evaluation,
        epochs=epochs,
        seed=draw(st.integers(0, 3)),
        model=draw(models(blocks)),
    )
    done = draw(st.integers(0, epochs))
    job = dataclasses.replace(
        job if not done else resumed(job, done),
        evaluate_before=draw(st.booleans()) or not trains,
        local=draw(st.booleans()),
    )
    held = {name: draw(caches(layers)) for name in profiles if profiles[name].trainer}
    return Scenario(
        job=job,
        plan=plan,
        profiles=profiles,
        held=held,
        train=tuple(train),
        eval=tuple(evaluation),
    )


def caches(layers: tuple[int, ...]) -> st.SearchStrategy[set[CacheEntry]]:
    """Texts that are held with all layers, and texts that are held with one layer only."""

    def entries(texts: tuple[set[int], set[int]]) -> set[CacheEntry]:
        whole, partly = texts
        found = {(key_of(text), layer) for text in whole for layer in layers}
        return found | {(key_of(text), layers[0]) for text in partly}

    texts = st.sets(st.integers(0, NUM_TEXTS - 1), max_size=6)
    return st.tuples(texts, texts).map(entries)
