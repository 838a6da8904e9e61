import dataclasses

import numpy as np
import pytest

from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.messages import ProfileRequest
from edge_runtime.language_head.candidates import find_candidates
from edge_runtime.language_head.shortlist import USUAL_TOKENS
from edge_runtime.parallel_adapters.batch import NOT_COUNTED
from edge_runtime.profiling import training
from edge_runtime.profiling.training import (
    LARGEST_BATCH,
    cached_batch,
    measure_answering,
    measure_training,
    samples_at_once,
    synthetic_batch,
    synthetic_head,
)
from edge_runtime.serving.pieces import BATCH_BYTES
from export.adapter.graph import adapter_onnx
from tests.edge_runtime.parallel_adapters import language_samples, samples
from tests.edge_runtime.parallel_adapters.samples import HIDDEN_SIZE, config

CLASSES = config()
TRANSFORMATIONS = config(
    task="seq2seq", layers=(0, 1, 2, 3), encoder_layers=2, causal=True, num_outputs=300
)
REQUEST = ProfileRequest(
    stages=(),
    block_classes=(),
    batch=2,
    tokens={"encoder": 6, "decoder": 4},
    max_tokens={"encoder": 9, "decoder": 8},
    hidden_size=HIDDEN_SIZE,
    adapter=TRANSFORMATIONS,
    counted_tokens=3,
    backbone_digest=Sha256("0" * 64),
    cache_dtype="fp16",
    cache_quota_bytes=None,
)
COPYING = config("pointer", task="causal-lm", causal=True, num_outputs=300)
LINES = dataclasses.replace(
    REQUEST, tokens={"decoder": 6}, max_tokens={"decoder": 9}, adapter=COPYING
)
TEXTS = dataclasses.replace(
    REQUEST, tokens={"encoder": 6}, max_tokens={"encoder": 9}, adapter=CLASSES
)

EVERY = pytest.mark.parametrize(
    ("request_", "adapter"),
    [(TEXTS, CLASSES), (REQUEST, TRANSFORMATIONS), (LINES, COPYING)],
    ids=["text", "seq2seq", "pointer"],
)


@EVERY
def test_every_kind_of_adapter_can_be_measured(request_, adapter, tmp_path):
    found = measure_training(request_, adapter, tmp_path)
    assert found.seconds_per_exchanged_value > 0
    assert not list(tmp_path.iterdir()), "the cache that was read from is still there"
    assert found.seconds_per_sample > 0
    assert found.seconds_per_step >= 0
    assert found.parameters > 1000


@pytest.mark.parametrize(
    ("request_", "adapter"),
    [(REQUEST, TRANSFORMATIONS), (LINES, COPYING)],
    ids=["seq2seq", "pointer"],
)
def test_a_loss_over_candidates_is_measured_with_what_it_takes_once(request_, adapter, tmp_path):
    request = dataclasses.replace(request_, loss="candidates")
    found = measure_training(request, adapter, tmp_path)
    assert found.seconds_per_sample > 0
    assert found.seconds_per_new_sample > 0
    batch = synthetic_batch(request, adapter, request.max_tokens, 2)
    assert [len(each.log_rest) for each in batch.candidates] == [batch.count // 2] * 2


@pytest.mark.parametrize("vocabulary", [300, 13_000])
def test_what_it_takes_once_is_measured_where_candidates_are_searched(
    vocabulary, tmp_path, monkeypatch
):
    searched = []

    def find(lines, head, **options):
        if "shortlist" in options:
            shortlist = options["shortlist"]
            searched.append(vocabulary if shortlist is None else len(shortlist.tokens))
        return find_candidates(lines, head, **options)

    monkeypatch.setattr(training, "find_candidates", find)
    large = dataclasses.replace(COPYING, num_outputs=vocabulary)
    measure_training(dataclasses.replace(LINES, adapter=large, loss="candidates"), large, tmp_path)
    usual = 300 if vocabulary == 300 else USUAL_TOKENS
    assert searched
    assert all(0.95 * usual < tokens <= usual for tokens in searched)


@EVERY
def test_a_trained_adapter_is_measured_as_a_graph(request_, adapter, tmp_path):
    make = language_samples.trainer if adapter.generative else trainer_of_classes
    graph = adapter_onnx(adapter, adapter_weights(make(adapter).state()))
    found = measure_answering(request_, adapter, graph, tmp_path)
    assert found.seconds_per_sample > 0
    assert (found.seconds_per_step, found.parameters) == (0, 0)


def trainer_of_classes(_config):
    return samples.trainer()


def test_synthetic_batches_have_the_datas_lengths_and_counts():
    batch = synthetic_batch(REQUEST, TRANSFORMATIONS, REQUEST.tokens, 5)
    assert batch.hidden.shape == (2, 5, 4, HIDDEN_SIZE)
    assert batch.encoder_hidden.shape == (2, 5, 6, HIDDEN_SIZE)
    assert batch.count == 5 * 3
    longest = synthetic_batch(REQUEST, TRANSFORMATIONS, REQUEST.max_tokens, 1)
    assert (longest.targets != NOT_COUNTED).sum() == 6
    assert synthetic_batch(TEXTS, CLASSES, TEXTS.tokens, 3).encoder_hidden is None


@pytest.mark.parametrize(("dtype", "kept"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_steps_are_timed_on_states_as_the_cache_has_them(dtype, kept):
    request = dataclasses.replace(REQUEST, cache_dtype=dtype)
    batch = cached_batch(request, TRANSFORMATIONS, REQUEST.tokens, 5)
    assert batch.states.itemsize == batch.encoder_states.itemsize == kept
    assert batch.states.shape[:2] == (2, 5 * 4)
    assert batch.encoder_states.shape[:2] == (2, 5 * 6)
    assert batch.count == 5 * 3


def test_a_synthetic_head_is_of_the_bundles_kind():
    whole = synthetic_head(REQUEST, TRANSFORMATIONS)
    assert (whole.weight.shape, whole.weight.dtype) == ((300, HIDDEN_SIZE), np.float32)
    small = synthetic_head(dataclasses.replace(REQUEST, head_dtype="int8"), TRANSFORMATIONS)
    assert (small.weight.dtype, small.row_scale.shape) == (np.int8, (300, 1))


def test_long_samples_are_measured_one_by_one():
    assert samples_at_once(CLASSES, {"encoder": 10}, LARGEST_BATCH) == LARGEST_BATCH
    row_bytes = len(CLASSES.layers) * HIDDEN_SIZE * 4
    assert samples_at_once(CLASSES, {"encoder": BATCH_BYTES // row_bytes // 3}, LARGEST_BATCH) == 3
    assert samples_at_once(CLASSES, {"encoder": BATCH_BYTES}, LARGEST_BATCH) == 1


def test_an_adapter_that_reads_tokens_is_measured_with_some():
    usual = config(task="causal-lm", causal=True, num_outputs=300)
    pointer = dataclasses.replace(usual, kind="pointer")
    batch = synthetic_batch(REQUEST, pointer, REQUEST.tokens, 5)
    assert batch.tokens.shape == (5, 4)
    assert 0 <= batch.tokens.min() <= batch.tokens.max() < 300
    other = synthetic_batch(REQUEST, usual, REQUEST.tokens, 5)
    assert other.tokens is None
    assert (other.hidden == batch.hidden).all()


def test_a_pointers_lines_have_the_context_among_their_candidates() -> None:
    request = dataclasses.replace(LINES, loss="candidates", counted_tokens=2)
    wide = dataclasses.replace(COPYING, num_outputs=3000)
    lengths = {"decoder": 60}
    copying, alone = (
        synthetic_batch(request, each, lengths, 1).candidates
        for each in (wide, dataclasses.replace(wide, kind="mlp"))
    )
    assert len(copying[0].tokens) == len(alone[0].tokens) + 14, "0.35 of 40"
