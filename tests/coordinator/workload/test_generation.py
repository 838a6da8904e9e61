"""Texts are what a plain loop writes, however the prompts are grouped and devices planned."""

import collections
import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.protocol.actions import Send
from coordinator.protocol.job import Continuation, Job
from coordinator.protocol.record import GenerationRecord
from coordinator.samples.samples import SampleTable
from coordinator.workload.generation import HELD_BYTES, Generation
from edge_runtime.backbone.row_buffer import RowBuffer
from edge_runtime.contract.adapter import AdapterConfig, AdapterKind, TrainingOptions
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import DeviceFailedError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import (
    Message,
    MicroBatch,
    NextTokens,
    Release,
    RunBatch,
    SetUpGeneration,
)
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.sample import Ragged, Samples, sample_keys
from edge_runtime.serving.sampling import choose_tokens
from tests.coordinator.planner.problems import manifest

VOCABULARY, EOS, SHARDS = 9, 0, 4
BLOCKS = 4


def model(encoder_blocks: int = 0, **changes) -> Manifest:
    """Of three decoder blocks behind an encoder, or of a decoder alone."""
    task = "seq2seq" if encoder_blocks else "causal-lm"
    found = manifest([1] * BLOCKS, encoder_blocks=encoder_blocks, task=task)
    return dataclasses.replace(found, **{"eos_token_ids": (EOS,), "max_length": 30, **changes})


def prompts_of(rows: Sequence[Sequence[int]], of: Manifest) -> Samples:
    """Prompts, or sources of an encoder-decoder that starts with token 1."""
    specs = [spec for spec in of.inputs if spec.kind == "tokens"]
    inputs = {specs[0].name: Ragged.from_rows(rows)}
    if len(specs) == 2:
        inputs[specs[1].name] = Ragged.from_rows([[1]] * len(rows))
    return Samples(
        inputs=inputs,
        streams={spec.name: spec.stream for spec in specs},
        second_starts=np.zeros(len(rows), np.int32),
        keys=sample_keys(of.backbone_digest, inputs),
    )


def plan_of(cuts: Sequence[int], owners: int, micro_batch: int) -> Plan:
    bounds = [0, *sorted(cuts), BLOCKS]
    stages = [
        Stage(first=first, last=last, devices=(StageDevice(device=DeviceId(f"s{first}")),))
        for first, last in itertools.pairwise(bounds)
    ]
    shards = np.array_split(np.arange(SHARDS), owners)
    return Plan(
        stages=tuple(stages),
        owners=tuple(
            Owner(device=DeviceId(f"o{i}"), shards=tuple(part.tolist()))
            for i, part in enumerate(shards)
        ),
        num_shards=SHARDS,
        micro_batch_size=micro_batch,
    )


def config_of(of: Manifest, kind: AdapterKind = "attention") -> AdapterConfig:
    encoder = len(of.layers_of("encoder")) if len(of.streams) == 2 else 0
    return AdapterConfig(
        kind=kind,
        hidden_size=8,
        reduction=2,
        layers=tuple(range(BLOCKS)),
        encoder_layers=encoder,
        task=of.task,
        num_outputs=VOCABULARY,
    )


def generation(
    rows: Sequence[Sequence[int]],
    *,
    of: Manifest | None = None,
    plan: Plan | None = None,
    earlier: GenerationRecord | None = None,
    kind: AdapterKind = "attention",
    **options,
) -> Generation:
    of = of or model()
    task = Continuation(prompts=prompts_of(rows, of), options=GenerationOptions(**options))
    table = SampleTable.make(task.longest(of), np.zeros(len(rows), np.int64), SHARDS)
    plan = plan or plan_of([2], 1, 4)
    job = Job(
        manifest=of,
        config=config_of(of, kind),
        options=TrainingOptions(epochs=0),
        tables={"eval": table},
        devices=plan.devices,
        make_plan=lambda _profiles: plan,
        continuation=task,
    )
    return Generation(job, plan, 0.0, earlier)


def logits_of(ids: Sequence[int]) -> np.ndarray:
    """Depend on every id and its place."""
    seed = [int(i) for i in ids]
    return np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32)


def plain_loop(line: int, ids: Sequence[int], target: list[int] | None, **options) -> list[int]:
    """What is written for one prompt; ``target`` begins a sequence of its own."""
    how = GenerationOptions(**options)
    written: list[int] = []
    output = list(ids) if target is None else list(target)
    while len(written) < how.max_new_tokens and len(output) < 30:
        seen = output if target is None else [*ids, *output]
        places = np.array([len(output)])
        token = int(choose_tokens(logits_of(seen)[None], how, np.array([line]), places)[0])
        if token == EOS:
            break
        written.append(token)
        output.append(token)
    return written


class Devices:
    """Keep what they are sent, as real ones do, and choose by :func:`logits_of`."""

    def __init__(self, of: Manifest, request: SetUpGeneration) -> None:
        self._streams = {s.name: s.stream for s in of.inputs if s.kind == "tokens"}
        self._request = request
        self.held: dict[DeviceId, RowBuffer] = collections.defaultdict(
            lambda: RowBuffer(request.max_sequences, request.max_rows)
        )
        self.most = 0

    def take(self, device: DeviceId, message: Message) -> list[tuple[DeviceId, NextTokens]]:
        message = decode(encode(message))
        if isinstance(message, Release):
            self.held[device].drop(message.lines.tolist())
            return []
        assert isinstance(message, RunBatch)
        batch = message.batch
        assert batch.route[0] == device
        (destination,) = batch.destinations
        for each in dict.fromkeys((*batch.route, destination.device)):
            self._append(self.held[each], batch, message.inputs)
        self.most = max(self.most, *(len(held) for held in self.held.values()))
        return [(destination.device, self._choose(batch, self.held[destination.device]))]

    def _append(self, held: RowBuffer, batch: MicroBatch, inputs) -> None:
        assert batch.sequences is not None
        for name, stream in self._streams.items():
            lengths = batch.lengths.get(stream)
            if stream in batch.lengths or held.lengths(name, batch.sequences.lines).all():
                held.append(name, stream, batch.sequences, lengths, inputs.get(name))

    def _choose(self, batch: MicroBatch, held: RowBuffer) -> NextTokens:
        assert batch.sequences is not None
        lines = batch.sequences.lines
        seen = [
            [i for name in self._streams for i in held.joined(name, [line]).tolist()]
            for line in lines.tolist()
        ]
        lengths = batch.sequences.known["decoder"] + batch.lengths["decoder"]
        logits = np.stack([logits_of(ids) for ids in seen])
        tokens = choose_tokens(logits, self._request.options, lines, lengths)
        return NextTokens(number=batch.number, lines=lines, tokens=tokens)


def play(running: Generation, devices: Devices, chance: random.Random) -> None:
    """Answers in any order until all is written."""
    answers: list[tuple[DeviceId, NextTokens]] = []
    clock = 0.0

    def send(sends: Sequence[Send]) -> None:
        for each in sends:
            answers.extend(devices.take(each.device, each.message))

    send(running.start())
    while answers:
        clock += 1.0
        device, chosen = answers.pop(chance.randrange(len(answers)))
        send(running.chosen(device, chosen, clock))
    assert running.done
    assert running.record.seconds == clock


ROWS = st.lists(
    st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=5), min_size=1, max_size=9
)


@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS,
    cuts=st.sets(st.integers(1, BLOCKS - 1)),
    owners=st.integers(1, 3),
    micro_batch=st.integers(1, 4),
    encoder_blocks=st.sampled_from([0, 2]),
    temperature=st.sampled_from([0.0, 1.0]),
    most=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_every_text_is_what_a_plain_loop_writes(
    rows, cuts, owners, micro_batch, encoder_blocks, temperature, most, seed
):
    of = model(encoder_blocks)
    options = {"max_new_tokens": most, "temperature": temperature, "seed": seed}
    running = generation(rows, of=of, plan=plan_of(sorted(cuts), owners, micro_batch), **options)
    devices = Devices(of, running.set_up())
    play(running, devices, random.Random(seed))
    target = [1] if encoder_blocks else None
    assert running.record.tokens == [
        plain_loop(line, ids, target, **options) for line, ids in enumerate(rows)
    ]
    assert running.record.finished == len(rows)
    assert all(len(held) == 0 for held in devices.held.values()), "something was not released"
    assert devices.most <= micro_batch * (len(cuts) + 1 + owners)


@pytest.mark.parametrize("encoder_blocks", [0, 2])
@pytest.mark.parametrize("steps", [0, 1, 4, 7])
def test_texts_go_on_under_another_plan_from_what_is_written(encoder_blocks, steps):
    of, rows = model(encoder_blocks), [[3], [4, 5], [6], [7, 8, 2], [1]]
    options = {"max_new_tokens": 6, "temperature": 1.0}
    running = generation(rows, of=of, plan=plan_of([2], 2, 2), **options)
    devices, answers = Devices(of, running.set_up()), []
    sends = running.start()
    for _ in range(steps):
        answers += [found for send in sends for found in devices.take(send.device, send.message)]
        sends = running.chosen(*answers.pop(0), 1.0)
    ended = running.record.finished
    # What devices of the plan before kept is lost with it.
    again = generation(rows, of=of, plan=plan_of([], 1, 4), earlier=running.record, **options)
    begun = Devices(of, again.set_up())
    play(again, begun, random.Random(steps))
    target = [1] if encoder_blocks else None
    assert again.record.tokens == [
        plain_loop(line, ids, target, **options) for line, ids in enumerate(rows)
    ]
    assert again.record.finished == len(rows) >= ended


def first_batch(running: Generation) -> MicroBatch:
    message = running.start()[0].message
    assert isinstance(message, RunBatch)
    return message.batch


def answer(batch: MicroBatch, token: int = 5, **changes) -> NextTokens:
    assert batch.sequences is not None
    lines = batch.sequences.lines
    chosen = NextTokens(
        number=batch.number, lines=lines, tokens=np.full(len(lines), token, np.int32)
    )
    return dataclasses.replace(chosen, **changes)


def test_only_what_is_new_travels_and_encoders_are_passed_by():
    of = model(encoder_blocks=2)
    running = generation([[3, 4, 5]], of=of, plan=plan_of([1, 2, 3], 1, 4))
    batch = first_batch(running)
    assert batch.route == ("s0", "s1", "s2", "s3")
    assert {name: each.tolist() for name, each in batch.lengths.items()} == {
        "encoder": [3],
        "decoder": [1],
    }
    (send,) = running.chosen(DeviceId("o0"), answer(batch), 1.0)
    assert isinstance(send.message, RunBatch)
    assert send.device == "s2"
    again = send.message.batch
    assert again.route == ("s2", "s3")
    assert {name: each.tolist() for name, each in send.message.inputs.items()} == {
        "decoder_input_ids": [5]
    }
    assert again.sequences is not None
    known = {name: each.tolist() for name, each in again.sequences.known.items()}
    assert (list(again.lengths), known) == (["decoder"], {"encoder": [3], "decoder": [1]})


def test_a_text_ends_at_any_end_token_and_leaves_its_group():
    of = model(eos_token_ids=(0, 7))
    running = generation([[3], [4], [5]], of=of, plan=plan_of([], 1, 3), max_new_tokens=5)
    sends = running.start()
    batch = sends[-1].message.batch
    number = len(batch.keys)
    tokens = np.array([7, *[5] * (number - 1)], np.int32)
    sends = running.chosen(DeviceId("o0"), answer(batch, tokens=tokens), 1.0)
    releases = [send for send in sends if isinstance(send.message, Release)]
    assert {send.device for send in releases} == {"s0", "o0"}
    assert releases[0].message.lines.tolist() == [batch.sequences.lines[0]]
    assert running.record.tokens[int(batch.sequences.lines[0])] == []


def test_a_text_ends_where_the_model_does():
    of = model(max_length=6)
    running = generation([[3, 3, 3, 3]], of=of, plan=plan_of([], 1, 1), max_new_tokens=50)
    assert running.set_up().max_rows == {"decoder": 6}
    answers = [running.start()]
    for _ in range(2):
        batch = answers[-1][-1].message.batch
        answers.append(running.chosen(DeviceId("o0"), answer(batch), 1.0))
    assert running.done
    assert running.record.tokens == [[5, 5]]


def test_groups_shrink_where_states_are_large():
    wide = dataclasses.replace(model(max_length=4000), hidden_size=1024)
    running = generation([[1]] * 100, of=wide, plan=plan_of([], 1, 16), max_new_tokens=3999)
    size = len(first_batch(running).keys)
    each = 4000 * BLOCKS * 1024 * 4
    assert size == max(1, HELD_BYTES // (2 * each))


Change = Callable[[MicroBatch], tuple[str, NextTokens]]


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: ("o0", answer(batch, number=99)),
        lambda batch: ("o1", answer(batch)),
        lambda batch: ("s0", answer(batch)),
        lambda batch: (
            "o0",
            answer(
                batch,
                lines=batch.sequences.lines[:0],
                tokens=batch.sequences.lines[:0],
            ),
        ),
        lambda batch: ("o0", answer(batch, token=-1)),
        lambda batch: ("o0", answer(batch, token=VOCABULARY)),
    ],
    ids=["number", "other owner", "no owner", "lines", "negative", "too large"],
)
def test_tokens_that_nobody_asked_for_end_the_session(change: Change):
    running = generation([[3]], plan=plan_of([], 1, 1))
    batch = first_batch(running)
    device, chosen = change(batch)
    with pytest.raises(DeviceFailedError, match=f"{device}: chose"):
        running.chosen(DeviceId(device), chosen, 1.0)


def test_a_second_answer_is_not_awaited():
    running = generation([[3]], plan=plan_of([], 1, 1))
    batch = first_batch(running)
    running.chosen(DeviceId("o0"), answer(batch), 1.0)
    with pytest.raises(DeviceFailedError, match="chose tokens for other prompts"):
        running.chosen(DeviceId("o0"), answer(batch), 2.0)


@pytest.mark.parametrize("encoder_blocks", [0, 2])
def test_tokens_of_what_is_written_travel_to_an_adapter_that_reads_them(encoder_blocks):
    of = model(encoder_blocks)
    rows, output = [[3, 4, 5], [6, 7]], [[3, 4, 5], [6, 7]] if not encoder_blocks else [[1], [1]]
    plan = plan_of([], 1, 2)
    running = generation(rows, of=of, plan=plan, kind="pointer")
    batches = [send.message.batch for send in running.start()]
    for batch in batches:
        lines = batch.sequences.lines.tolist()
        assert batch.sequences.tokens.tolist() == [i for line in lines for i in output[line]]
        sends = running.chosen(DeviceId("o0"), answer(batch, token=8), 1.0)
        (again,) = (send.message.batch for send in sends if isinstance(send.message, RunBatch))
        assert again.sequences.lines.tolist() == lines
        assert again.sequences.tokens.tolist() == [8] * len(lines)
    # Under another plan, devices know nothing of what is written.
    resumed = generation(rows, of=of, plan=plan, kind="pointer", earlier=running.record)
    for send in resumed.start():
        sequences = send.message.batch.sequences
        expected = [i for line in sequences.lines.tolist() for i in [*output[line], 8]]
        assert sequences.tokens.tolist() == expected


def test_no_tokens_travel_beside_the_inputs_to_other_adapters():
    running = generation([[3, 4, 5]])
    batch = first_batch(running)
    assert batch.sequences.tokens is None
    (send,) = running.chosen(DeviceId("o0"), answer(batch), 1.0)
    assert send.message.batch.sequences.tokens is None
