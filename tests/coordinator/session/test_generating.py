"""Whatever the order of messages, a session that generates ends with the same texts."""

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.protocol.events import Received, Tick
from coordinator.protocol.job import Continuation, Job
from coordinator.samples.samples import SampleTable
from coordinator.session import clock
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.coordinator.planner.problems import manifest, profile
from tests.coordinator.session.fakes.cluster import Cluster, lose
from tests.coordinator.session.fakes.device import FakeDevice
from tests.coordinator.session.scenarios import job_of, plans
from tests.coordinator.workload.test_generation import plan_of, prompts_of

VOCABULARY, EOS, BLOCKS = 9, 0, 4
MOST = 6


def token_of(line: int, length: int) -> int:
    """What follows so many tokens of a line."""
    return (5 * line + 3 * length) % VOCABULARY


def text_of(line: int, length: int) -> list[int]:
    written: list[int] = []
    while len(written) < MOST and (token := token_of(line, length + len(written))) != EOS:
        written.append(token)
    return written


class GeneratingDevice(FakeDevice):
    """Passes on what is new, and chooses when all layers are there."""

    def __init__(self, *args) -> None:
        self.missing: dict[int, set[int]] = {}
        self.lengths: dict[int, np.ndarray] = {}
        self.config = None
        super().__init__(*args)

    def take_from_peer(self, sender, message, tag, post):
        if isinstance(message, m.States) and (tag.session, tag.term) == (self.session, self.term):
            self.jobs.append((message, tag, sender))
        else:
            super().take_from_peer(sender, message, tag, post)

    def _begin_session(self, session):
        self.missing.clear()
        self.lengths.clear()
        super()._begin_session(session)

    def _begin_term(self, term, post):
        self.missing.clear()
        self.lengths.clear()
        super()._begin_term(term, post)

    def _work(self, message, post, post_to):
        match message:
            case m.States() as states:
                self._keep_sequences(states, post)
                return True
            case m.SetUpTraining(config=config):
                self.config = config
            case m.OpenCache() | m.OwnSamples() | m.Evaluate():
                raise AssertionError("nothing is cached or evaluated")
        return super()._work(message, post, post_to)

    def _serve(self, batch, index, rows, post, post_to):
        assert batch.route[index] == self.device
        stage, lengths = self._stage.stage, batch.lengths
        streams = {spec.name: spec.stream for spec in stage.inputs}
        streams |= {f"hidden.{i}": stream for i, stream in enumerate(stage.streams)}
        read = self._manifest.carried(stage.first)
        assert set(rows) == {name for name in read if streams[name] in lengths}
        carried = {
            name: rows.get(name, np.zeros((lengths[streams[name]].sum(), 1), np.float32))
            for name in stage.carries
            if streams[name] in lengths
        }
        if index + 1 < len(batch.route):
            post_to(
                batch.route[index + 1], m.Activations(batch=batch, stage=index + 1, rows=carried)
            )
        (destination,) = batch.destinations
        own = [i for i in self._stage.layers if stage.first <= i < stage.last]
        for stream, each in lengths.items():
            layers = tuple(i for i in own if stage.streams[i] == stream)
            if layers:
                states = _states(batch, layers, each)
                if destination.device == self.device:
                    self._keep_sequences(states, post)
                else:
                    post_to(destination.device, states)
        post(m.BatchServed(number=batch.number, stage=index, seconds=0.1))

    def _keep_sequences(self, states, post):
        known, config = states.sequences.known["decoder"], self.config
        layers = config.layers if not known.any() else config.layers[config.encoder_layers :]
        missing = self.missing.setdefault(states.number, set(layers))
        assert missing.issuperset(states.layers), "states came twice"
        missing -= set(states.layers)
        if config.layers[-1] in states.layers:
            self.lengths[states.number] = known + states.lengths
        if not missing:
            lines = states.sequences.lines
            found = zip(lines.tolist(), self.lengths[states.number].tolist(), strict=True)
            tokens = np.array([token_of(*each) for each in found], np.int32)
            post(m.NextTokens(number=states.number, lines=lines, tokens=tokens))


def _states(batch: m.MicroBatch, layers: tuple[int, ...], lengths: np.ndarray) -> m.States:
    return m.States(
        number=batch.number,
        keys=batch.keys,
        lengths=lengths,
        layers=layers,
        encoded=np.zeros((len(layers), int(lengths.sum()), 4), np.uint8),
        numerics="fake",
        sequences=batch.sequences,
    )


def generating_job(model: Manifest, plan, profiles, rows) -> Job:
    model = dataclasses.replace(model, eos_token_ids=(EOS,), max_length=50)
    layers = tuple(range(BLOCKS))
    job = job_of(plan, profiles, layers=layers, train=[], evaluation=[1], epochs=0, model=model)
    task = Continuation(
        prompts=prompts_of(rows, model), options=GenerationOptions(max_new_tokens=MOST)
    )
    table = SampleTable.make(task.longest(model), np.zeros(len(rows), np.int64), plan.num_shards)
    return dataclasses.replace(job, tables={"eval": table}, continuation=task, cache_dtype="fp32")


def cluster_of(job: Job, profiles) -> Cluster:
    cluster = Cluster(job, profiles, {}, 10**6)
    cluster.devices = {
        name: GeneratingDevice(each, set(), 0, job.manifest) for name, each in profiles.items()
    }
    cluster._note_lease = lambda message: None  # type: ignore[method-assign]
    return cluster


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    encoder_blocks=st.integers(0, BLOCKS - 1),
    rows=st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=4), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
)
def test_texts_do_not_depend_on_who_is_faster(data, encoder_blocks, rows, seed):
    task = "seq2seq" if encoder_blocks else "causal-lm"
    model = manifest([1] * BLOCKS, encoder_blocks=encoder_blocks, task=task)
    plan, profiles = data.draw(plans(BLOCKS, 3))
    cluster = cluster_of(generating_job(model, plan, profiles, rows), profiles)
    cluster.run(random.Random(seed))
    assert cluster.finished, cluster.failure
    generation = cluster.session.record.generation
    assert generation is not None
    lengths = [1 if encoder_blocks else len(row) for row in rows]
    assert generation.tokens == [text_of(line, length) for line, length in enumerate(lengths)]
    assert generation.finished == len(rows)
    expected = ["deploying", "setting up", "generating", "collecting", "finished"]
    assert cluster.phases[-5:] == expected
    (event,) = [event for event in cluster.events if event.event == "generation_finished"]
    assert event.fields["tokens"] == sum(map(len, generation.tokens))


def started() -> Cluster:
    """Three stages and an owner, until tokens are being chosen."""
    plan = plan_of([1, 3], 1, 2)
    profiles = {
        name: profile(name, train=None) if name.startswith("s") else profile(name, layer=None)
        for name in plan.devices
    }
    model = manifest([1] * BLOCKS, encoder_blocks=0, task="causal-lm")
    cluster = cluster_of(generating_job(model, plan, profiles, [[1, 2], [3], [4, 5]]), profiles)
    chance = random.Random(1)
    while cluster.session.phase != "generating":
        assert cluster.advance(chance)
    return cluster


@pytest.mark.parametrize("device", ["s0", "s3", "o0"])
def test_a_lost_device_that_nobody_can_stand_in_for_ends_the_session(device):
    cluster = started()
    lose(cluster, DeviceId(device), "gone")
    assert isinstance(cluster.failure, StoppedError)
    assert device in str(cluster.failure)


@settings(deadline=None, max_examples=40)
@given(
    encoder_blocks=st.integers(0, BLOCKS - 1),
    rows=st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=4), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    part=st.floats(0, 1),
)
def test_texts_do_not_depend_on_who_is_lost(encoder_blocks, rows, seed, part):
    task = "seq2seq" if encoder_blocks else "causal-lm"
    model = manifest([1] * BLOCKS, encoder_blocks=encoder_blocks, task=task)
    names = [DeviceId("d0"), DeviceId("d1")]
    alone = {name: plan_on(name) for name in names}
    profiles = {name: profile(name) for name in names}
    job = generating_job(model, alone[names[0]], profiles, rows)
    job = dataclasses.replace(job, make_plan=lambda measured: alone[measured[0].device])
    cluster, chance = cluster_of(job, profiles), random.Random(seed)
    while cluster.session.phase != "generating":
        assert cluster.advance(chance)
    for _ in range(int(part * 12 * len(rows))):
        cluster.advance(chance)
    cluster.kill(names[0])
    lose(cluster, names[0], "gone")
    cluster.run(chance)
    assert cluster.finished, cluster.failure
    lengths = [1 if encoder_blocks else len(row) for row in rows]
    expected = [text_of(line, length) for line, length in enumerate(lengths)]
    assert cluster.session.record.generation.tokens == expected


def plan_on(name: DeviceId) -> Plan:
    """One device does everything."""
    return Plan(
        stages=(Stage(first=0, last=BLOCKS, devices=(StageDevice(device=name),)),),
        owners=(Owner(device=name, shards=(0,)),),
        num_shards=1,
        micro_batch_size=2,
    )


def test_a_device_that_chooses_tokens_unasked_is_blamed_and_the_second_time_left_out():
    cluster = started()
    lines = np.zeros(1, np.int32)
    for _ in range(2):
        chosen = m.NextTokens(number=1, lines=lines, tokens=lines)
        term = cluster.session.state.term
        cluster.tell(Received(device=DeviceId("s0"), message=chosen, term=term))
        while cluster.session.phase not in ("generating", "failed"):
            assert cluster.advance(random.Random(1))
    assert "s0 was left out: chose tokens for other prompts" in str(cluster.failure)


@pytest.mark.parametrize("device", ["s1", "o0"])
def test_a_device_that_hangs_while_prompts_are_continued_is_named(device):
    cluster, chance, hung = started(), random.Random(2), DeviceId(device)
    while any(step.device != hung for step in cluster.steps()):
        chance.choice([step for step in cluster.steps() if step.device != hung]).happen()
    assert not cluster.over
    cluster.clock += clock.PROGRESS_SECONDS + 1
    cluster.tell(Tick())
    hangs = [record.fields for record in cluster.events if record.event == "device_hangs"]
    assert [fields["device"] for fields in hangs] == [device]
