"""What the coordinator cuts and serves, from a bundle that is not on disk."""

import dataclasses
import random
from pathlib import Path
from typing import TypeVar

import pytest

from coordinator.cluster import stage_files
from coordinator.cluster.stage_files import StageCutter
from coordinator.planner.dispatch import window
from coordinator.protocol.actions import SendProfileRequest
from coordinator.protocol.job import Job
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import Message, OpenCache, SetUpTraining
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from export.partition.stages import Bundle
from tests.coordinator.planner.problems import HEAD, manifest, profile
from tests.coordinator.session.fakes.cluster import Cluster
from tests.coordinator.session.scenarios import job_of

T = TypeVar("T", bound=Message)

A = DeviceId("a")
PLAN = Plan(
    stages=(Stage(first=0, last=5, devices=(StageDevice(device=A),)),),
    owners=(Owner(device=A, shards=(0,)),),
    num_shards=1,
    micro_batch_size=1,
)
MODELS = {
    "encoder": manifest([1] * 5),
    "decoder": manifest([1] * 5, encoder_blocks=0, task="causal-lm"),
    "both": manifest([1] * 5, encoder_blocks=2, task="seq2seq"),
}


@pytest.fixture(autouse=True)
def no_graphs(monkeypatch):
    monkeypatch.setattr(stage_files, "cut_stage", lambda *args, exact: b"graph")
    monkeypatch.setattr(stage_files, "stage_products", lambda *args: ())


def cutter_of(model: Manifest) -> StageCutter:
    return StageCutter(Bundle(path=Path("bundle"), manifest=model))


def job(model: Manifest) -> Job:
    layers = tuple(range(5))
    return job_of(
        PLAN, {A: profile("a")}, layers=layers, train=[4, 5], evaluation=[9], epochs=1, model=model
    )


def asked(model: Manifest, kind: type[T]) -> T:
    """The first request of a kind in an undisturbed session."""
    found: list[Message] = []

    class Noting(Cluster):
        def _send(self, name: DeviceId, message: Message, tag: Tag) -> None:
            found.append(message)
            super()._send(name, message, tag)

    cluster = Noting(job(model), {A: profile("a")}, {}, window(PLAN))
    cluster.run(random.Random(0))
    assert cluster.finished
    return next(message for message in found if isinstance(message, kind))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_stage_says_what_it_passes_on_and_what_its_states_belong_to(model):
    stage = cutter_of(model).load_stage(1, 3, layers=(0, 2), dtype="fp16").stage
    assert stage.streams == tuple(block.stream for block in model.blocks[:3])
    assert stage.carries == model.carried(3)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_profiling_asks_for_the_datas_shape_and_passes_nothing_on(model):
    request = cutter_of(model).profile_request(job(model), SendProfileRequest(device=A))
    assert set(request.tokens) == set(model.streams) == set(request.max_tokens)
    assert max(request.max_tokens.values()) == 3
    assert all(stage.carries == () for stage in request.stages)
    assert (request.counted_tokens > 0) == (model.head is not None)


@pytest.mark.parametrize(("bytes_", "dtype"), [(9 * 384 * 4, "float32"), (9 * 388, "int8")])
def test_a_heads_kind_is_told_by_its_size(bytes_, dtype):
    model = MODELS["both"]
    files = [
        dataclasses.replace(file, bytes=bytes_) if file.path == HEAD.path else file
        for file in model.files
    ]
    model = dataclasses.replace(model, files=tuple(files))
    assert (
        cutter_of(model).profile_request(job(model), SendProfileRequest(device=A)).head_dtype
        == dtype
    )


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_devices_may_fetch_weights_and_what_trainers_start_from(model):
    cutter = cutter_of(model)
    for spec in model.weight_files(0, 5):
        assert cutter.file(spec.sha256) == spec
    head = model.file(HEAD.path)
    request = asked(model, SetUpTraining)
    files = tuple(file for file in (request.head, request.adapter_init) if file is not None)
    if model.head is None:
        assert files == ()
        with pytest.raises(KeyError):
            cutter.file(head.sha256)
    else:
        assert files == (head,)
        assert cutter.file(head.sha256) == head


def test_layers_to_cache_are_named_by_sequence():
    assert asked(MODELS["both"], OpenCache).layers == {"encoder": (0, 1), "decoder": (2, 3, 4)}
