"""The module against its formulas, and its gradients against finite differences."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions, adapter_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import to_plain
from edge_runtime.contract.tensors import read_tensors
from edge_runtime.parallel_adapters import ParallelAdapter, Trainer, load_adapter
from edge_runtime.parallel_adapters.attention_context import PackedStates
from edge_runtime.parallel_adapters.layer_reads import normalize
from tests.edge_runtime.parallel_adapters import by_module, formulas, language_samples, samples

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.parallel_adapters import Batch

REGRESSION = {"task": "regression", "num_outputs": 1, "target_mean": 2.0, "target_scale": 3.0}
POOLED = [
    samples.config(),
    samples.config("mlp"),
    samples.config(num_heads=1, feed_forward_ratio=2),
    samples.config(pair=True),
    samples.config("mlp", **REGRESSION),
]
LANGUAGE = [
    language_samples.config(),
    language_samples.config("mlp", num_heads=1),
    language_samples.seq2seq(),
    language_samples.seq2seq("mlp"),
]
POINTERS = [language_samples.pointer(), language_samples.pointer(layers=tuple(range(7)))]


def name_of(config: AdapterConfig) -> str:
    parts = (
        config.kind,
        config.task,
        f"{len(config.layers)} layers",
        f"{config.num_heads} heads",
        "pair" if config.pair else "",
    )
    return " ".join(part for part in parts if part)


def batch(config: AdapterConfig, size: int) -> Batch:
    if config.generative:
        return language_samples.batch(config, size)
    return samples.batch(size, regression=config.task == "regression")


def trainer(config: AdapterConfig) -> Trainer:
    head = language_samples.head(config) if config.generative else None
    return Trainer(config, TrainingOptions(seed=3), 20, head=head)


def random_weights(config: AdapterConfig, scale: float = 0.3) -> dict[str, torch.Tensor]:
    """In float64, for a module that is."""
    random = np.random.default_rng(5)
    return {
        name: torch.from_numpy(scale * random.standard_normal(tuple(value.shape)))
        for name, value in ParallelAdapter(config).state_dict().items()
    }


def exact(config: AdapterConfig) -> ParallelAdapter:
    module = ParallelAdapter(config).double()
    module.load_state_dict(random_weights(config))
    return module


def arrays(module: ParallelAdapter) -> dict[str, Any]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def doubled(data: Any) -> Any:
    """The batch's tensors in float64, as arguments of the module."""
    encoder = None
    if data.encoder_hidden is not None:
        states = data.encoder_hidden
        encoder = torch.from_numpy(states).double(), by_module.mask(states, data.encoder_lengths)
    hidden = torch.from_numpy(data.hidden).double()
    starts = torch.from_numpy(data.second_starts)
    return hidden, by_module.mask(data.hidden, data.lengths), starts, encoder


@pytest.mark.parametrize("config", POOLED, ids=name_of)
def test_outputs_follow_the_formulas(config: AdapterConfig) -> None:
    module, data = exact(config), samples.batch(7)
    data.second_starts[:2] = 0, data.lengths[1]  # no second segment; no first one but the whole
    with torch.no_grad():
        found = module(*doubled(data)).numpy()
    for row, sample in enumerate(found):
        hidden = data.hidden[:, row, : data.lengths[row]].astype(np.float64)
        expected = formulas.outputs(config, arrays(module), hidden, data.second_starts[row])
        np.testing.assert_allclose(sample, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("config", LANGUAGE, ids=name_of)
def test_features_follow_the_formulas(config: AdapterConfig) -> None:
    module, data = exact(config), language_samples.batch(config, 7, junk=50.0)
    with torch.no_grad():
        found = module(*doubled(data)).numpy()
    for row, sample in enumerate(found):
        tokens = data.lengths[row]
        hidden = data.hidden[:, row, :tokens].astype(np.float64)
        encoder = None
        if data.encoder_hidden is not None and data.encoder_lengths is not None:
            encoder = data.encoder_hidden[:, row, : data.encoder_lengths[row]].astype(np.float64)
        expected = formulas.features(config, arrays(module), hidden, encoder)
        np.testing.assert_allclose(sample[:tokens], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("config", POINTERS, ids=name_of)
def test_what_a_pointer_copies_follows_the_formulas(config: AdapterConfig) -> None:
    module, data = exact(config), language_samples.batch(config, 7, junk=50.0)
    hidden, mask, _, _ = doubled(data)
    states = PackedStates.of_padded(hidden, mask)
    some = torch.tensor([0, 5, 11, int(mask.sum()) - 1])
    with torch.no_grad():
        features, copies = module(hidden, mask), by_module.pointed(module, hidden, mask)
        side = module.side_state(states, rows_M=some)
        torch.testing.assert_close(module.side_state(states)[some], side)
        of_some = module.pointer(states, normalize(side), some)
    torch.testing.assert_close(copies[mask][some], of_some)
    for row, tokens in enumerate(data.lengths):
        states = data.hidden[:, row, :tokens].astype(np.float64)
        expected, added = formulas.pointer(config, arrays(module), states)
        own = copies[row, :tokens].numpy()
        np.testing.assert_allclose(features[row, :tokens], expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(own[:, :tokens], added, rtol=1e-9, atol=1e-9)
        assert not own[:, tokens:].any(), "a padding is copied"
    assert np.abs(added).max() > 1


class Whole(torch.nn.Module):
    """A pointer with both of its outputs in one."""

    def __init__(self, adapter: ParallelAdapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, *_: Any) -> torch.Tensor:
        features = self.adapter(hidden, mask)
        return torch.cat((features, by_module.pointed(self.adapter, hidden, mask)), 2)


@pytest.mark.parametrize("config", POOLED + LANGUAGE + POINTERS, ids=name_of)
def test_gradients_equal_finite_differences(config: AdapterConfig) -> None:
    """One random direction for each parameter, through all of its values."""
    inputs = doubled(batch(config, 3))
    module: torch.nn.Module = exact(config)
    weights = random_weights(config)
    if config.copies:
        module = Whole(exact(config))
        weights = {f"adapter.{name}": value for name, value in weights.items()}
    random = torch.Generator().manual_seed(0)

    def total(steps: torch.Tensor) -> torch.Tensor:
        moved = {
            name: value + step * direction
            for (name, value), step, direction in zip(
                weights.items(), steps, directions, strict=True
            )
        }
        found: torch.Tensor = functional_call(module, moved, inputs)
        return torch.tanh(found / 4).sum()

    directions = [
        torch.randn(value.shape, generator=random, dtype=value.dtype) for value in weights.values()
    ]
    steps = torch.zeros(len(weights), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, steps, eps=1e-6, atol=1e-4, rtol=1e-4)
    (slopes,) = torch.autograd.grad(total(steps), steps)
    assert (slopes.abs() > 1e-6).all()


@pytest.mark.parametrize("config", POOLED + LANGUAGE + POINTERS, ids=name_of)
def test_saved_weights_load_directly(config: AdapterConfig) -> None:
    state = samples.moved(trainer(config)).state()
    weights = read_tensors(adapter_weights(state))

    module = ParallelAdapter(config)
    module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})

    data = batch(config, 4)
    with torch.no_grad():
        expected = by_module.run(by_module.adapter(config, state), data)
        torch.testing.assert_close(by_module.run(module, data), expected, rtol=0, atol=0)
        torch.testing.assert_close(
            by_module.run(copy.deepcopy(module), data), expected, rtol=0, atol=0
        )


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (samples.config(pair=True), "a178f8beb247d27c"),
        (samples.config("mlp"), "21ab1fe66245f6c4"),
        (language_samples.seq2seq(), "b28df7770f4c1c0b"),
        (language_samples.config(num_heads=1), "1d9f2d75abf58442"),
        (language_samples.pointer(), "b085645cfaa02454"),
    ],
)
def test_first_weights_names_and_their_order_are_those_of_the_first_release(
    config: AdapterConfig, digest: str
) -> None:
    """A state has every tensor by name, and the moments and weights in flat order."""
    assert hashlib.sha256(trainer(config).state()).hexdigest()[:16] == digest


def test_the_adapter_of_a_run_is_loaded_with_its_weights(tmp_path: Path) -> None:
    config = samples.config(pair=True, labels=("a", "b", "c"))
    engine = samples.moved(trainer(config))
    with pytest.raises(BadInputError, match="no trained adapter"):
        load_adapter(tmp_path)
    (tmp_path / "adapter").mkdir()
    plain = json.dumps(to_plain(config))
    (tmp_path / "adapter" / "adapter_config.json").write_text(plain)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(adapter_weights(engine.state()))

    module = load_adapter(tmp_path)

    data = samples.batch(6)
    assert module.config == config
    with torch.no_grad():
        found = by_module.run(module, data).numpy()
    np.testing.assert_allclose(found, engine.outputs(data), atol=1e-6)
    weights.write_bytes(b"\0" * 99)
    with pytest.raises(BadInputError, match=r"adapter_model\.safetensors"):
        load_adapter(str(tmp_path))
