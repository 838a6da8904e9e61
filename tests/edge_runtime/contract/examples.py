"""One message of every type, and mutations of their frames: by structure, and by bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.codec import PROTOCOL_VERSION, Frame, encode
from edge_runtime.contract.generation import GenerationOptions, Sequences
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import FileSpec, InputSpec
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.profile import (
    BlockTiming,
    CoreSpeed,
    DeviceProfile,
    KnownTimes,
    LinkProfile,
    TrainerProfile,
)

A, B = DeviceId("a"), DeviceId("b")
SHA = Sha256("0" * 64)
FILE = FileSpec(path="weights/a.bin", bytes=3, sha256=SHA)
BYTES = np.arange(4, dtype=np.uint8)
KEYS = np.zeros((2, 32), np.uint8)
ROWS = np.array([0, 1], np.int32)
LENGTHS = {"encoder": np.array([2, 1], np.int32), "decoder": np.array([1, 1], np.int32)}
SEQUENCES = Sequences(lines=ROWS, known={"encoder": ROWS, "decoder": ROWS}, tokens=ROWS)
BATCH = m.MicroBatch(
    number=3,
    route=(A, B),
    keys=KEYS,
    lengths=LENGTHS,
    destinations=(m.Destination(device=B, positions=ROWS),),
    sequences=SEQUENCES,
)
STAGE = m.StageFiles(
    first=0,
    last=1,
    streams=("encoder",),
    carries=("hidden.0", "input_ids"),
    inputs=(InputSpec(name="input_ids", dtype="int64", kind="tokens"),),
    graph=BYTES,
    exact_graph=BYTES,
    files=(FILE,),
)
CONFIG = AdapterConfig(
    hidden_size=16, layers=(0, 1), task="classification", num_outputs=2, labels=("x", "y")
)
PROFILE = DeviceProfile(
    device=A,
    roles=("backbone", "trainer"),
    memory_bytes=1 << 30,
    base_memory_bytes=1 << 20,
    storage_bytes=1 << 30,
    cores=2.0,
    blocks={"layer": (BlockTiming(batch_size=1, sequence_length=8, seconds_per_token=1e-5),)},
    trainer=TrainerProfile(seconds_per_sample=1e-3, parameters=100),
    link=LinkProfile(up_bits_per_second=1e6, down_bits_per_second=1e6),
)
TIMES = KnownTimes(
    core=CoreSpeed(flops=1e11, slower=1.0),
    reached={"int8": 1e11},
    blocks=PROFILE.blocks,
    trainer=PROFILE.trainer,
)
SUMS = m.EpochSums(epoch=1, steps=3, samples=2, count=2, loss_sum=0.5)

EXAMPLES: tuple[m.Message, ...] = (
    m.Hello(software="1.0", roles=("backbone",), data_address="tcp://h:1", process_id=1),
    m.Heartbeat(),
    m.FileRequest(sha256=SHA, offset=0, length=10),
    m.ProfileDone(profile=PROFILE),
    m.PeersReady(),
    m.LinkMeasured(peer=B, bits_per_second=1e6, latency_seconds=1e-3),
    m.CacheStatus(held=np.array([True, False]), bytes_used=10, memory_bytes=7),
    m.SamplesHeld(readable=np.array([True, False])),
    m.StageReady(first=0, last=1, received_bytes=10, seconds=0.5),
    m.BatchServed(number=3, stage=0, seconds=0.5),
    m.SamplesSent(number=4),
    m.Stored(number=3, layers=(0, 1), samples=2),
    m.SamplesReady(which="train", missing=np.zeros(0, np.int32), cache_bytes=10, cache_samples=2),
    m.TrainingReady(parameters=100),
    m.StateTaken(step=3),
    m.TokenCounts(counts=np.stack((ROWS, ROWS)).astype(np.int64)),
    m.GroupFormed(),
    m.Progress(sums=SUMS),
    m.Awaiting(step=3, peers=(A, B)),
    m.EpochDone(sums=SUMS, seconds=1.0),
    m.SettingsTrained(
        losses=np.array([0.5, np.inf]),
        correct=np.array([7, 0]),
        seconds=np.ones(2),
        shared_seconds=0.1,
        sums=(SUMS, SUMS),
        parameters=np.array([3, 4]),
        state=BYTES,
    ),
    m.Outputs(indices=ROWS, outputs=np.zeros((2, 2), np.float32)),
    m.GenerationReady(),
    m.NextTokens(number=3, lines=ROWS, tokens=ROWS),
    m.TrainerState(data=BYTES, step=3, sums=SUMS),
    m.Usage(
        phase="fill", cpu_seconds={"fill": 1.0}, peak_rss_bytes=1, sent_bytes=1, received_bytes=1
    ),
    m.Failed(reason="no room"),
    m.PeerLost(peer=A, reason="gone"),
    m.Rejected(peer=A, reason="NaN"),
    m.Relief(reason="hot"),
    m.Notice(text="cut"),
    m.Welcome(heartbeat_seconds=1.0),
    m.ProfileRequest(
        stages=(STAGE,),
        block_classes=("layer",),
        pairs={"layer": STAGE},
        batch=4,
        tokens={"encoder": 8},
        max_tokens={"encoder": 16},
        hidden_size=16,
        adapter=CONFIG,
        adapter_graph=FILE,
        backbone_digest=SHA,
        cache_dtype="fp16",
        known=TIMES,
    ),
    m.FileChunk(sha256=SHA, offset=0, data=BYTES),
    m.Peers(peers=(m.Peer(device=B, public_key="k", address="tcp://h:1"),)),
    m.ProbeLink(peer=B, seconds=0.5),
    m.OpenCache(
        backbone_digest=SHA,
        dtype="fp16",
        hidden_size=16,
        layers={"encoder": (0,), "decoder": (1,)},
        keys=KEYS,
    ),
    m.LoadStage(stage=STAGE, layers=(0,), dtype="fp16"),
    m.RunBatch(batch=BATCH, inputs={"input_ids": np.zeros(3, np.int32)}),
    m.HoldSamples(keys=KEYS),
    m.MoveSamples(number=3, keys=KEYS, layers=(0,), to=B),
    m.OwnSamples(
        which="train",
        total=2,
        indices=ROWS,
        keys=KEYS,
        ranks=ROWS.astype(np.int64),
        lengths=LENGTHS,
        second_starts=ROWS,
        targets=ROWS.astype(np.int64),
        tokens=ROWS,
    ),
    m.SetUpTraining(
        config=CONFIG,
        options=TrainingOptions(),
        total_steps=10,
        state=BYTES,
        head=FILE,
    ),
    m.BeginTerm(),
    m.Rejoin(),
    m.TakeState(data=BYTES, step=3, sums=SUMS),
    m.CountTokens(),
    m.FormGroup(trainers=(A, B), token_counts=np.stack((ROWS, ROWS)).astype(np.int64)),
    m.TrainEpoch(epoch=1),
    m.TrainSettings(
        settings=(m.Setting(number=0, config=CONFIG, options=TrainingOptions()),),
        epoch=1,
        first_step=0,
        num_steps=2,
        total_steps=10,
    ),
    m.Evaluate(),
    m.SetUpGeneration(
        options=GenerationOptions(), max_sequences=2, max_rows={"encoder": 8, "decoder": 8}
    ),
    m.Release(lines=ROWS),
    m.SendState(),
    m.BeginPhase(phase="fill"),
    m.Shutdown(),
    m.Activations(batch=BATCH, stage=1, rows={"hidden.0": np.zeros((3, 4), np.float32)}),
    m.States(
        number=3,
        keys=KEYS,
        lengths=LENGTHS["encoder"],
        layers=(0,),
        encoded=np.zeros((1, 3, 8), np.uint8),
        numerics="ort/fast",
        sequences=SEQUENCES,
    ),
    m.GradientPart(step=1, values=np.zeros(4, np.float16), count=2, scale=1.0),
    m.ReducedPart(step=1, values=np.zeros(4, np.float16), scale=1.0),
    m.Probe(train=1, index=0, count=2, payload=BYTES),
    m.ProbeEcho(train=1, seconds=0.5),
    m.Tunnel(peer=A, stream=3, by_sender=True, event="data", data=BYTES),
    m.Forget(everything=True),
    m.Forgotten(bytes=10),
)

TAG = Tag(session="s", term=1, reply=2)
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63 - 1, -(2**63), 2**64 - 1),
    *(0.0, -0.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "a",
        "encoder",
        "\x1b[2J\r\nforged",
        "x" * 5000,
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        b"",
        b"\0",
    ),
    *([], {}, [[]], {"": None}, {"encoder": 1}, [1, "a", None], [[[[[[[[]]]]]]]]),
)
DTYPES = ("uint8", "int8", "int32", "int64", "float16", "float32", "bool", "float64")


def mutations(
    seed: int, examples: tuple[m.Message, ...] = EXAMPLES, tag: Tag = TAG
) -> Iterator[list[bytes]]:
    """Yields frames of messages in which something is wrong, for ever; equal for equal seeds."""
    choice = random.Random(seed)
    originals = [[bytes(frame) for frame in encode(message, tag)] for message in examples]
    while True:
        frames = list(choice.choice(originals))
        for _ in range(choice.choice((1, 1, 1, 2, 5))):
            change = choice.choice(_CHANGES)
            frames = change(frames, choice)
        yield frames


def _replaced(frames: list[bytes], choice: random.Random) -> list[bytes]:
    """Replaces a random part of the header, whatever its depth, or removes or adds one."""
    try:
        header = msgspec.msgpack.decode(frames[0])
    except (ValueError, RecursionError):
        return frames
    places = list(_places(header))
    if not places:
        return frames
    container, key = choice.choice(places)
    what = choice.random()
    if what < 0.1 and isinstance(container, dict):
        del container[key]
    elif what < 0.2 and isinstance(container, dict):
        container[choice.choice(("unknown", "\x1b]0;x\x07", "", "y" * 999))] = container[key]
    elif what < 0.25 and isinstance(container, list):
        container.insert(key, container[key])
    elif what < 0.5:
        container[key] = _array(frames, choice)
    else:
        container[key] = choice.choice(SCALARS)
    return [msgspec.msgpack.encode(header), *frames[1:]]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index
            yield from _places(item)
    if isinstance(value, dict):
        for key, item in value.items():
            yield value, key
            yield from _places(item)


def _array(frames: list[bytes], choice: random.Random) -> msgspec.msgpack.Ext:
    """Describes an array of any dtype and shape, often one that a frame has the bytes for."""
    index = choice.randrange(len(frames) + 1)
    dtype = choice.randrange(len(DTYPES))
    size = len(frames[index]) if index < len(frames) else choice.randrange(100)
    items = size // np.dtype(DTYPES[dtype]).itemsize
    shapes = ([items], [1, items], [items, 1], [], [0], [0, 2**40], [2**40, 0], [-1], [2**62, 4])
    description = [dtype, index, *choice.choice(shapes)]
    return msgspec.msgpack.Ext(1, msgspec.msgpack.encode(description))


def _resized(frames: list[bytes], choice: random.Random) -> list[bytes]:
    """Gives an array another dtype or shape, with frames that fit: only its field can refuse."""
    try:
        header = msgspec.msgpack.decode(frames[0])
    except (ValueError, RecursionError):
        return frames
    places = [place for place in _places(header) if _is_array(place[0][place[1]])]
    if not places:
        return frames
    container, key = choice.choice(places)
    try:
        _, index, *shape = msgspec.msgpack.decode(container[key].data, type=list[int])
        frames[index]
    except (ValueError, IndexError):
        return frames
    dtype = choice.randrange(len(DTYPES))
    if choice.random() < 0.5:
        shape = choice.choice(([], [0], [1], [2], [3], [2, 0], [2, 2], [2, 32], [1, 3, 8]))
    sides = [*shape, int(np.prod(shape, dtype=float))]  # a side may be long where there is nothing
    if min(sides) < 0 or max(sides) >= 10_000:
        return frames
    values = np.zeros(shape, DTYPES[dtype])
    if choice.random() < 0.5:
        values = values.astype(float) + choice.choice((1, -1, 200, np.nan, np.inf))
        with np.errstate(invalid="ignore"):
            values = values.astype(DTYPES[dtype])
    description = msgspec.msgpack.encode([dtype, index, *shape])
    container[key] = msgspec.msgpack.Ext(1, description)
    changed = [msgspec.msgpack.encode(header), *frames[1:]]
    changed[index] = values.tobytes()
    return changed


def _is_array(value: Any) -> bool:
    return isinstance(value, msgspec.msgpack.Ext) and len(value.data) < 200


def _bitten(frames: list[bytes], choice: random.Random) -> list[bytes]:
    """Flips, inserts, removes or doubles bytes of a frame."""
    index = choice.choice((0, 0, 0, choice.randrange(len(frames))))
    frame = bytearray(frames[index])
    place = choice.randrange(len(frame) + 1)
    kind = choice.randrange(4)
    if kind == 0 and place < len(frame):
        frame[place] ^= 1 << choice.randrange(8)
    elif kind == 1:
        frame[place:place] = choice.randbytes(choice.randrange(1, 9))
    elif kind == 2:
        del frame[place : place + choice.randrange(1, 9)]
    else:
        frame[place : place + 1] = choice.choice(_OPENERS)
    return [*frames[:index], bytes(frame), *frames[index + 1 :]]


_OPENERS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x91" * 3000,
)
"""What begins lists, maps and extensions of four thousand million items, and deep nesting."""


def _shuffled(frames: list[bytes], choice: random.Random) -> list[bytes]:
    """Adds, removes or swaps frames."""
    changed = list(frames)
    kind = choice.randrange(3)
    if kind == 0:
        changed.insert(choice.randrange(len(frames) + 1), choice.randbytes(choice.randrange(20)))
    elif kind == 1:
        del changed[choice.randrange(len(frames))]
    else:
        choice.shuffle(changed)
    return changed or [b""]


Change = Callable[[list[bytes], random.Random], list[bytes]]
_CHANGES: tuple[Change, ...] = (_replaced,) * 5 + (_resized,) * 3 + (_bitten,) * 3 + (_shuffled,)


def with_fields(name: str, fields: Any, *frames: Frame) -> list[Frame]:
    """Frames of a message of type ``name`` with any ``fields``, encoded as they are."""
    header = [PROTOCOL_VERSION, TAG.session, TAG.term, TAG.reply, name, fields]
    return [msgspec.msgpack.encode(header), *frames]
