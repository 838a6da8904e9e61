"""This process answers as a device does, to the last bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.cluster.observer import NullObserver
from coordinator.cluster.stage_files import StageCutter
from coordinator.inference.local_model import LocalModel
from coordinator.inference.options import ANSWERING
from coordinator.protocol.job import Continuation
from coordinator.samples.samples import SampleTable
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterKind
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.sample import Ragged, Samples, sample_keys
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.parallel_adapters import Batch
from edge_runtime.serving import whole_stage
from edge_runtime.serving.resident_model import HERE, ResidentModel
from edge_runtime.training.role import TrainerRole
from export.partition.stages import Bundle
from tests.conftest import TinyBundleMaker
from tests.edge_runtime.serving.test_cache_effect import STAMPS, adapter_for
from tests.edge_runtime.serving.test_generating_roles import Sent

LINES = 70
"""Two batches of an owner and a part of a third."""


class Told(NullObserver):
    """Notes how far the work is."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int]] = []

    def computed(self, done: int, total: int) -> None:
        self.done.append((done, total))


def table_of(bundle: Bundle, count: int, *, pair: bool = False, longest: int = 30) -> SampleTable:
    """Lines of all lengths; a language model learns half of its tokens."""
    manifest, generator = bundle.manifest, np.random.default_rng(0)
    specs = [spec for spec in manifest.inputs if spec.kind == "tokens"]
    lengths = {spec.stream: generator.integers(2, longest, count) for spec in specs}
    lengths[specs[0].stream][0] = longest
    inputs = {
        spec.name: Ragged.from_rows(
            np.zeros(n, np.int32) if "type" in spec.name else generator.integers(4, 60, n)
            for n in lengths[spec.stream].tolist()
        )
        for spec in specs
    }
    targets: Any = np.zeros(count, np.int64)
    if manifest.head is not None:
        own = [generator.integers(-1, 60, n) for n in lengths[manifest.output_stream].tolist()]
        targets = Ragged.from_rows(np.where(row < 30, -1, row) for row in own)
    samples = Samples(
        inputs=inputs,
        second_starts=np.ones(count, np.int32) * pair,
        keys=sample_keys(manifest.backbone_digest, inputs),
        streams={spec.name: spec.stream for spec in specs},
    )
    return SampleTable.make(samples, targets, ANSWERING.batch_size)


def device_outputs(model: LocalModel, table: SampleTable, home: Path) -> np.ndarray[Any, Any]:
    """What the roles of a device make of it: stage cut, weights stored, states cached."""
    store, sent = WeightStore(home / "store"), Sent()
    trainer = TrainerRole(me=HERE, home=home, outbox=sent)
    cache_states(model, table, trainer, store)
    own_all(table, trainer)
    set_up_answering(model, trainer, store)
    trainer.evaluate(m.Evaluate())
    trainer.close()
    (outputs,) = (each.outputs for each in sent if isinstance(each, m.Outputs))
    return outputs


def cache_states(
    model: LocalModel, table: SampleTable, trainer: TrainerRole, store: WeightStore
) -> None:
    """Fills the trainer's cache, in other micro-batches than an owner's batches."""
    manifest, config, samples = model.bundle.manifest, model.config, table.samples
    backbone = BackboneRole(me=HERE, threads=1, outbox=Sent(), keep=trainer.keep)
    load = StageCutter(model.bundle).load_stage(
        *(0, len(manifest.blocks)), layers=config.layers, dtype=model.cache_dtype
    )
    whole_stage.copy_files(load, model.bundle.path, store)
    backbone.load(load, store)
    encoder = config.layers[: config.encoder_layers]
    layers: dict[Any, Any] = {"encoder": encoder} if encoder else {}
    layers[manifest.output_stream] = config.layers[config.encoder_layers :]
    trainer.open_cache(
        m.OpenCache(
            backbone_digest=manifest.backbone_digest,
            dtype=model.cache_dtype,
            hidden_size=manifest.hidden_size,
            layers=layers,
            keys=samples.keys,
        )
    )
    for start in range(0, len(table), 16):
        part = samples.take(np.arange(start, min(start + 16, len(table))))
        here = m.Destination(device=HERE, positions=np.arange(len(part), dtype=np.int32))
        batch = m.MicroBatch(
            number=start,
            route=(HERE,),
            keys=part.keys,
            lengths={name: each.astype(np.int32) for name, each in part.lengths_of.items()},
            destinations=(here,),
        )
        backbone.run(batch, 0, {name: each.values for name, each in part.inputs.items()})


def own_all(table: SampleTable, trainer: TrainerRole) -> None:
    samples, every = table.samples, np.arange(len(table), dtype=np.int32)
    trainer.own(
        m.OwnSamples(
            which="eval",
            total=len(table),
            ranks=table.ranks,
            indices=every,
            keys=samples.keys,
            lengths={name: each.astype(np.int32) for name, each in samples.lengths_of.items()},
            second_starts=samples.second_starts,
            targets=table.targets_of(every),
        )
    )


def set_up_answering(model: LocalModel, trainer: TrainerRole, store: WeightStore) -> None:
    manifest = model.bundle.manifest
    graph = FileSpec(path="adapter.onnx", bytes=len(model.adapter), sha256="0" * 64)
    store.path(graph).write_bytes(model.adapter)
    head = manifest.head and manifest.file(manifest.head.path)
    if head:
        store.path(head).write_bytes(model.bundle.file_path(head).read_bytes())
    trainer.set_up(
        m.SetUpTraining(
            config=model.config,
            options=ANSWERING,
            total_steps=0,
            state=np.empty(0, np.uint8),
            adapter_graph=graph,
            head=head,
        ),
        store,
    )


def local_model(bundle: Bundle, dtype: m.CacheDtype, **changes: Any) -> LocalModel:
    config, adapter = adapter_for(bundle, **changes)
    return LocalModel(bundle=bundle, config=config, adapter=adapter, cache_dtype=dtype)


KINDS = [
    *(("bert", {}, dtype) for dtype in ("fp32", "fp16", "int8")),
    *(("bert", {"pair": True}, "fp16"), ("bert", STAMPS, "fp16")),
    *(("llama", {}, "fp16"), ("t5", {}, "fp16")),
]


@pytest.mark.parametrize(("family", "changes", "dtype"), KINDS)
def test_outputs_are_those_of_a_device_to_the_last_bit(
    tiny_bundle: TinyBundleMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    changes: dict[str, Any],
    dtype: m.CacheDtype,
) -> None:
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path / "home"))
    bundle = tiny_bundle(family, "int8" if family == "bert" else "none")
    model = local_model(bundle, dtype, **changes)
    table = table_of(bundle, LINES, pair=bool(changes.get("pair")))
    told = Told()
    found = model.outputs(table, told)
    np.testing.assert_array_equal(found, device_outputs(model, table, tmp_path))
    assert told.done[-1] == (LINES, LINES)


def test_a_line_alone_has_the_outputs_that_it_has_among_others(
    tiny_bundle: TinyBundleMaker,
) -> None:
    bundle = tiny_bundle("bert", "int8")
    model, table = local_model(bundle, "fp16"), table_of(bundle, 9)
    together = model.outputs(table, Told())
    for line in range(9):
        one = SampleTable.make(table.samples.take([line]), np.zeros(1, np.int64), 16)
        np.testing.assert_allclose(model.outputs(one, Told()), together[[line]], atol=2e-6)


def test_where_integers_saturate_the_exact_form_is_served(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path))
    bundle = tiny_bundle("bert", "int8")
    table = table_of(bundle, 5)
    usual = local_model(bundle, "fp32").outputs(table, Told())
    monkeypatch.setattr("edge_runtime.serving.resident_model.is_whole", lambda *_: False)
    for _ in range(2):  # the second time, its weights are there
        exact = local_model(bundle, "fp32")
        np.testing.assert_allclose(exact.outputs(table, Told()), usual, atol=1e-5)
    assert list((tmp_path / "stages").rglob("stage-*.onnx"))


def test_a_text_is_written_as_its_tokens_are_scored(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written greedily has the largest logits when it is evaluated."""
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path))
    for family in ("llama", "t5"):
        bundle = tiny_bundle(family, "none")
        model, told = local_model(bundle, "fp32"), Told()
        prompts = table_of(bundle, 5, longest=8).samples
        task = Continuation(prompts=prompts, options=GenerationOptions(max_new_tokens=6))
        longest = task.longest(bundle.manifest)
        table = SampleTable.make(longest, np.zeros(5, np.int64), 16)
        written = model.continued(task, table, told)
        assert max(map(len, written)) > 2
        name = next(n for n, s in prompts.streams.items() if s == bundle.manifest.output_stream)
        whole = [[*prompts.inputs[name][i].tolist(), *row] for i, row in enumerate(written)]
        inputs = {**prompts.inputs, name: Ragged.from_rows(whole)}
        targets = [
            [-1] * (len(row) - len(new) - 1) + new + [-1]
            for row, new in zip(whole, written, strict=True)
        ]
        samples = Samples(
            inputs=inputs,
            second_starts=prompts.second_starts,
            keys=sample_keys(bundle.manifest.backbone_digest, inputs),
            streams=prompts.streams,
        )
        outputs = model.outputs(SampleTable.make(samples, Ragged.from_rows(targets), 16), Told())
        np.testing.assert_array_equal(outputs[:, 1:], [[len(row)] * 2 for row in written])
        assert told.done[-1] == (5, 5)


def test_a_line_that_takes_too_much_memory_is_named(
    tiny_bundle: TinyBundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle("bert", "int8")
    hello = ResidentModel.hello

    def small(self: ResidentModel) -> m.Hello:
        return dataclasses.replace(hello(self), memory_bytes=100_000_000, base_memory_bytes=0)

    monkeypatch.setattr(ResidentModel, "hello", small)
    model = local_model(bundle, "fp32")
    monkeypatch.setattr(model.resident, "outputs", pytest.fail)
    with pytest.raises(InfeasibleError, match=r"text 1: its 9000 tokens take too much memory"):
        model.outputs(table_of(bundle, 3, longest=9000), Told())


class Noting:
    """An adapter that notes its batches; the head's input is the last hidden state."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def outputs(self, batch: Batch) -> np.ndarray[Any, Any]:
        self.batches.append(batch)
        return np.zeros((batch.size, 3))

    def last_features(self, batch: Batch) -> np.ndarray[Any, Any]:
        self.batches.append(batch)
        return batch.hidden[-1][np.arange(batch.size), batch.lengths - 1]


def noting_model(bundle: Bundle, kind: AdapterKind) -> tuple[LocalModel, Noting]:
    """A loaded model whose adapter notes what it is asked."""
    usual, noting = local_model(bundle, "fp32"), Noting()
    config, resident = dataclasses.replace(usual.config, kind=kind), usual.resident
    resident._config, resident._adapter = config, noting  # type: ignore[assignment]
    model = dataclasses.replace(usual, config=config)
    model.__dict__["resident"] = resident
    return model, noting


def tokens_in(batches: list[Batch]) -> list[list[int]]:
    """Those of each sample; checks that padding is 0."""
    rows = []
    for batch in batches:
        assert batch.tokens is not None
        for row, length in zip(batch.tokens, batch.lengths.tolist(), strict=True):
            assert not row[length:].any()
            rows.append(row[:length].tolist())
    return rows


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_adapter_that_reads_tokens_has_those_of_lines_and_of_texts_that_it_writes(
    tiny_bundle: TinyBundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path))
    bundle = tiny_bundle(family, "none")
    model, noting = noting_model(bundle, "pointer")
    table = table_of(bundle, 5, longest=8)
    model.outputs(table, Told())
    rows = table.samples.tokens_of(bundle.manifest.output_stream)
    lines = [rows[i].tolist() for i in range(5)]
    assert sorted(tokens_in(noting.batches)) == sorted(lines)

    noting.batches.clear()
    task = Continuation(prompts=table.samples, options=GenerationOptions(max_new_tokens=4))
    longest = SampleTable.make(task.longest(bundle.manifest), np.zeros(5, np.int64), 16)
    written = model.continued(task, longest, Told())
    assert max(map(len, written)) > 2
    seen = tokens_in(noting.batches)
    for line, new in zip(lines, written, strict=True):
        for count in range(min(len(new) + 1, 4)):
            assert [*line, *new[:count]] in seen


def test_other_adapters_have_no_tokens(tiny_bundle: TinyBundleMaker) -> None:
    bundle = tiny_bundle("llama", "none")
    model, noting = noting_model(bundle, "mlp")
    model.outputs(table_of(bundle, 3, longest=8), Told())
    assert {batch.tokens is None for batch in noting.batches} == {True}
