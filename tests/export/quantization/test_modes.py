"""Quantized bundles as a whole: their notes, their exact form, and what they cost in loss."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

from edge_runtime.contract.tensors import read_tensors
from export.bundle import export_model
from export.partition.stages import GRAPH, cut_stage
from export.verify.ort_session import Graph
from export.verify.samples import pad_batch
from tests.export.helpers import lay_out, lay_out_paired, padded, run_as_it_is

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k" / "dev.jsonl"
LINES, BATCH = 64, 8


def operators(stage):
    return [node.op_type for node in onnx.load_from_string(stage).graph.node]


def test_the_bundle_says_what_was_done(tiny_bundle):
    notes = " | ".join(tiny_bundle("bert", "int4").manifest.notes)
    assert "15 linear layers: int4 weights in blocks of 32" in notes
    assert "3 sensitive ones: int8" in notes
    assert "18 linear layers: int8" in tiny_bundle("bert", "int8").manifest.notes[0]
    assert tiny_bundle("bert", "none").manifest.notes == ()


def test_the_exact_form_of_int4_turns_only_the_8_bit_layers(tiny_bundle, tmp_path):
    bundle = tiny_bundle("bert", "int4")
    blocks = len(bundle.manifest.blocks)
    plain, exact = (cut_stage(bundle, 0, blocks, exact=exact) for exact in (False, True))
    assert operators(exact).count("MatMulNBits") == operators(plain).count("MatMulNBits") == 15
    assert operators(exact).count("MatMulIntegerToFloat") == 3
    batch = padded(bundle, np.arange(5, 14), length=12, rows=3)
    states = [
        Graph(lay_out(bundle, 0, blocks, tmp_path / str(form), exact=form)).run(batch)
        for form in (False, True)
    ]
    for name, state in states[0].items():
        np.testing.assert_array_equal(state, states[1][name])


def test_operations_are_counted_alike_in_every_mode(tiny_bundle):
    flops = [
        [block.flops_per_token for block in tiny_bundle("bert", mode).manifest.blocks]
        for mode in ("none", "int8", "int4")
    ]
    assert flops[0] == flops[1] == flops[2]


def test_weights_limited_in_pairs_keep_the_states_of_a_real_model(minilm_bundle, tmp_path):
    plain, quantized = minilm_bundle("none"), minilm_bundle("int8")
    blocks = len(plain.manifest.blocks)
    batch = padded(plain, np.arange(2000, 2030), length=30, rows=8)
    tokens, last = batch["attention_mask"] > 0, f"hidden.{blocks - 1}"
    expected = run_as_it_is(lay_out(plain, 0, blocks, tmp_path / "float"), batch)[last][tokens]
    found = run_as_it_is(lay_out_paired(quantized, 0, blocks, tmp_path / "int8"), batch)[last]
    norms = np.linalg.norm(found[tokens], axis=-1) * np.linalg.norm(expected, axis=-1)
    assert ((found[tokens] * expected).sum(-1) / norms).mean() >= 0.995


@pytest.mark.slow
def test_a_real_language_model_keeps_its_loss(tmp_path, traced_once):
    folder = os.environ.get("PACPLUS_SMOLLM2")
    assert folder, "name a folder with SmolLM2-135M-Instruct in PACPLUS_SMOLLM2"
    assert GSM8K.is_file(), f"{GSM8K} is missing"
    bundles = {
        mode: export_model(folder, tmp_path / mode, task="causal-lm", quantize=mode, max_length=512)
        for mode in ("none", "int8", "int4")
    }
    losses = {
        mode: completion_loss(bundle, Graph(bundle.path / GRAPH))
        for mode, bundle in bundles.items()
    }
    blocks = len(bundles["int8"].manifest.blocks)
    paired = Graph(lay_out_paired(bundles["int8"], 0, blocks, tmp_path / "paired"))
    losses["paired"] = completion_loss(bundles["int8"], paired)
    assert losses["int8"] - losses["none"] <= 0.03
    assert losses["paired"] - losses["none"] <= 0.03
    assert losses["int4"] - losses["none"] <= 0.15


def completion_loss(bundle, graph):
    """Mean loss of the next token over completions, in nats."""
    head = read_tensors((bundle.path / bundle.manifest.head.path).read_bytes())
    weight = head["weight"] * head["scale"] if "scale" in head else head["weight"]
    last = f"hidden.{len(bundle.manifest.blocks) - 1}"
    samples = sorted(gsm8k(bundle), key=lambda sample: len(sample[0]))
    total, count = 0.0, 0
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        batch = pad_batch([{"input_ids": ids} for ids, _ in part], bundle.manifest.inputs)
        hidden = graph.run(batch)[last]
        for row, (ids, prompt) in enumerate(part):
            logits = hidden[row, prompt - 1 : len(ids) - 1] @ weight.T
            shifted = logits - logits.max(axis=1, keepdims=True)
            wanted = shifted[np.arange(len(ids) - prompt), ids[prompt:]]
            total += float((np.log(np.exp(shifted).sum(axis=1)) - wanted).sum())
            count += len(ids) - prompt
    return total / count


def gsm8k(bundle):
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for line in GSM8K.read_text("utf-8").splitlines()[:LINES]:
        fields = json.loads(line)
        prompt = tokenizer.encode(fields["prompt"] + "\n").ids
        yield tokenizer.encode(fields["prompt"] + "\n" + fields["completion"]).ids, len(prompt)
