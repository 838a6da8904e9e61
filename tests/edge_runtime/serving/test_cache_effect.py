"""What a cache's rounding changes in the outputs, for every kind of backbone and task."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edge_runtime.contract.adapter import AdapterConfig, adapter_weights
from edge_runtime.contract.adapter import TrainingOptions as Options
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch, Trainer
from edge_runtime.serving import cache_effect as cache_effect_module
from edge_runtime.serving.cache_effect import TokenizedText, cache_effect
from export.adapter.graph import adapter_onnx
from export.partition.stages import Bundle
from tests.conftest import TinyBundleMaker
from tests.edge_runtime.parallel_adapters import samples

IDS = [2, 17, 30, 9, 41, 3]
TEXT = TokenizedText(
    inputs={"input_ids": IDS, "token_type_ids": [0] * 6, "decoder_input_ids": [0, *IDS[1:4]]},
    second_start=3,
)
STAMPS = {"task": "regression", "num_outputs": 1, "target_mean": 1.7e9, "target_scale": 5.0}


def adapter_for(bundle: Bundle, **changes: Any) -> tuple[AdapterConfig, bytes]:
    """An adapter as training leaves it, as ONNX."""
    manifest = bundle.manifest
    classes = {"task": "classification", "num_outputs": 3}
    if manifest.head is not None:  # of t5, or of llama, whose only sequence is a decoder's
        classes = {
            "task": manifest.task,
            "num_outputs": manifest.head.vocab_size,
            "causal": True,
            "encoder_layers": len(manifest.layers_of("encoder")),
        }
    config = AdapterConfig(
        hidden_size=manifest.hidden_size,
        layers=tuple(range(len(manifest.blocks))),
        **{**classes, **changes},
    )
    head = FrozenHead.open(bundle.path / manifest.head.path, config) if manifest.head else None
    trainer = samples.moved(Trainer(config, Options(), 1, head=head), 0.02)
    return config, adapter_onnx(config, adapter_weights(trainer.state()))


@pytest.mark.parametrize(
    ("family", "changes"),
    [("bert", {}), ("bert", {"pair": True}), ("bert", STAMPS), ("llama", {}), ("t5", {})],
    ids=["classes", "pairs", "values", "decoder", "encoder-decoder"],
)
def test_fewer_bits_move_the_outputs_further(
    tiny_bundle: TinyBundleMaker, family: str, changes: dict[str, Any]
) -> None:
    bundle = tiny_bundle(family, "int8" if family == "bert" else "none")
    config, adapter = adapter_for(bundle, **changes)

    def effect(dtype):
        return cache_effect(bundle.path, bundle.manifest, config, adapter, dtype, [TEXT])

    assert effect("fp32") == 0.0
    assert 0.0 < effect("fp16") < 1e-3
    assert effect("fp16") < effect("int8") < 0.2


class Noting:
    """An adapter session that notes its batches."""

    def __init__(self, *_: Any) -> None:
        self.batches: list[Batch] = []

    def outputs(self, batch: Batch) -> np.ndarray[Any, Any]:
        self.batches.append(batch)
        return np.zeros((batch.size, 3))


def test_an_adapter_that_reads_tokens_has_them(
    tiny_bundle: TinyBundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle("llama", "none")
    config, adapter = adapter_for(bundle)
    monkeypatch.setattr(cache_effect_module, "AdapterSession", lambda *_: noting)
    for kind, expected in (("mlp", None), ("pointer", [IDS])):
        noting = Noting()
        shape = dataclasses.replace(config, kind=kind)
        cache_effect(bundle.path, bundle.manifest, shape, adapter, "fp16", [TEXT])
        tokens = [None if each.tokens is None else each.tokens.tolist() for each in noting.batches]
        assert tokens == [expected] * 2


def test_of_a_language_model_it_is_what_the_mean_over_all_tokens_moves(
    tiny_bundle: TinyBundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle("llama", "none")
    config, adapter = adapter_for(bundle)
    sums = iter([5.3, 5.0, 2.9, 3.0])  # of each text, with rounded states and with exact ones
    counts = []

    class Scripted(Noting):
        def outputs(self, batch: Batch) -> np.ndarray[Any, Any]:
            counts.append(batch.count)
            return np.array([[next(sums), batch.count, 0.0]])

    monkeypatch.setattr(cache_effect_module, "AdapterSession", Scripted)
    found = cache_effect(bundle.path, bundle.manifest, config, adapter, "int8", [TEXT, TEXT])
    assert counts[0] > 1
    assert found == pytest.approx((0.3 - 0.1) / (2 * counts[0]))
