"""The trainer, fed with hidden states, against backbone and side network in one graph.

On the other side: a Hugging Face model, the adapter as a module on top, the model's own head,
and one ``backward`` through all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch, Trainer
from tests.edge_runtime.parallel_adapters import by_module
from tests.edge_runtime.parallel_adapters.samples import moved

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_runtime.parallel_adapters import ParallelAdapter

VOCABULARY, HIDDEN_SIZE = 60, 32
LENGTHS, ENCODER_LENGTHS = torch.tensor([9, 3, 6, 1]), torch.tensor([4, 8, 1, 5])
TOLERANCE = 1e-4


def bert() -> tuple[nn.Module, AdapterConfig]:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
    )
    adapter = {"task": "classification", "num_outputs": 5, "layers": (0, 1, 2, 3)}
    return BertModel(config, add_pooling_layer=False), adapter_config(adapter)


def llama() -> tuple[nn.Module, AdapterConfig]:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
    )
    adapter = {"task": "causal-lm", "num_outputs": VOCABULARY, "layers": (0, 1, 2, 3)}
    return LlamaForCausalLM(config), adapter_config({**adapter, "causal": True})


def t5() -> tuple[nn.Module, AdapterConfig]:
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=HIDDEN_SIZE,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        decoder_start_token_id=0,
        tie_word_embeddings=True,
    )
    adapter = {"task": "seq2seq", "num_outputs": VOCABULARY, "layers": tuple(range(7))}
    more = {"causal": True, "encoder_layers": 3, "logit_scale": HIDDEN_SIZE**-0.5}
    return T5ForConditionalGeneration(config), adapter_config({**adapter, **more})


def adapter_config(fields: dict[str, Any]) -> AdapterConfig:
    return AdapterConfig(hidden_size=HIDDEN_SIZE, reduction=4, num_heads=2, **fields)


MAKERS = [bert, llama, t5]
LANGUAGE = [llama, t5]


class WholeModel(nn.Module):
    """A frozen backbone and a trainable adapter."""

    def __init__(self, make: Callable[[], tuple[nn.Module, AdapterConfig]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.config = make()
        self.backbone.eval().requires_grad_(False)
        random = np.random.default_rng(1)
        shape = (len(LENGTHS), int(LENGTHS.max()))
        ids = random.integers(1, VOCABULARY, shape)
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": mask(LENGTHS)}
        if self.config.encoder_layers:
            inputs = {f"decoder_{name}": value for name, value in inputs.items()}
            shape = (len(ENCODER_LENGTHS), int(ENCODER_LENGTHS.max()))
            ids = random.integers(1, VOCABULARY, shape)
            inputs["input_ids"] = torch.from_numpy(ids)
            inputs["attention_mask"] = mask(ENCODER_LENGTHS)
        self.inputs = inputs
        self.targets = torch.from_numpy(random.integers(0, 5, len(LENGTHS)))
        if self.config.generative:
            targets = random.integers(0, VOCABULARY, (len(LENGTHS), int(LENGTHS.max())))
            self.targets = torch.from_numpy(targets).masked_fill(mask(LENGTHS) == 0, -1)
            self.targets[0, 2:4] = -1

    def run_backbone(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Hidden states of the stack that outputs, those of the encoder, and logits."""
        out = self.backbone(**self.inputs, output_hidden_states=True)
        if self.config.encoder_layers:
            encoder = torch.stack(out.encoder_hidden_states)
            return torch.stack(out.decoder_hidden_states), encoder, out.logits
        return torch.stack(out.hidden_states), None, getattr(out, "logits", None)

    def loss(self, adapter: ParallelAdapter) -> Tensor:
        hidden, encoder, _ = self.run_backbone()
        read = None if encoder is None else (encoder, mask(ENCODER_LENGTHS))
        found = adapter(hidden, mask(LENGTHS), encoder=read)
        if not self.config.generative:
            return functional.cross_entropy(found, self.targets, reduction="sum")
        logits = self.backbone.lm_head(found * self.config.logit_scale)
        return by_module.language_loss(logits, self.targets)

    @torch.no_grad()
    def batch(self) -> Batch:
        """What a cache would hold of these samples."""
        hidden, encoder, _ = self.run_backbone()
        return Batch(
            hidden=hidden.numpy(),
            lengths=LENGTHS.numpy(),
            second_starts=np.zeros(len(LENGTHS), np.int64),
            targets=self.targets.numpy(),
            encoder_hidden=None if encoder is None else encoder.numpy(),
            encoder_lengths=None if encoder is None else ENCODER_LENGTHS.numpy(),
        )

    def head(self) -> FrozenHead | None:
        if not self.config.generative:
            return None
        weight = self.backbone.lm_head.weight.detach().numpy()
        return FrozenHead(weight=weight, scale=self.config.logit_scale)

    def trainer(self) -> Trainer:
        return Trainer(self.config, TrainingOptions(seed=2), 10, head=self.head())


def mask(lengths: Tensor) -> Tensor:
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()


@pytest.mark.parametrize("make", MAKERS, ids=["encoder", "decoder", "encoder-decoder"])
def test_loss_and_adapter_gradients_equal_those_of_one_autograd_graph(make: Any) -> None:
    whole = WholeModel(make)
    trainer = moved(whole.trainer())
    adapter = by_module.adapter(whole.config, trainer.state())
    parameters = dict(adapter.named_parameters())
    adapter.zero_grad()

    expected_loss = whole.loss(adapter)
    expected_loss.backward()  # type: ignore[no-untyped-call]
    loss = trainer.gradients(whole.batch())

    assert loss == pytest.approx(expected_loss.item(), rel=TOLERANCE)
    assert trainer.named_gradients().keys() == parameters.keys()
    for name, gradient in trainer.named_gradients().items():
        expected = parameters[name].grad
        assert expected is not None, name
        error = np.linalg.norm(gradient - expected.numpy())
        assert error <= TOLERANCE * float(expected.norm()), name
        assert expected.norm() > 0, name


@pytest.mark.parametrize("make", LANGUAGE, ids=["decoder", "encoder-decoder"])
def test_an_untrained_adapter_loses_what_the_backbone_loses(make: Any) -> None:
    whole = WholeModel(make)
    with torch.no_grad():
        hidden, _, logits = whole.run_backbone()
    assert logits is not None
    counted = whole.targets >= 0

    outputs = whole.trainer().outputs(whole.batch())
    head = whole.head()
    assert head is not None

    np.testing.assert_allclose(
        head.logits(hidden[-1][counted].numpy()), logits[counted].numpy(), atol=1e-5
    )
    expected = by_module.language_loss(logits, whole.targets)
    assert outputs[:, 0].sum() == pytest.approx(expected.item(), rel=1e-5)
    right = (logits.argmax(-1) == whole.targets) & counted
    np.testing.assert_array_equal(outputs[:, 1:].T, torch.stack((counted.sum(1), right.sum(1))))
