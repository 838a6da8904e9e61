"""From a PyTorch model to one ONNX graph whose outputs are all hidden states."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch

from edge_runtime.contract.errors import PacplusError
from edge_runtime.contract.manifest import InputSpec

from . import attention
from .checkpoint import quiet
from .graph import hidden_name

_OPSET = 21  # QuantizeLinear by rows; Gelu as one operator came with 20
_EXAMPLE_SHAPE = (2, 9)


class HiddenStates(torch.nn.Module):
    """Returns the embeddings' output and every layer's, (batch, sequence, channels) each."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the model; ``inputs`` are in the order of ``names``."""
        fields = dict(zip(self.names, inputs, strict=True))
        fields["attention_mask"] = attention.additive_mask(fields["attention_mask"])
        states: tuple[torch.Tensor, ...] = self.model(
            **fields, output_hidden_states=True
        ).hidden_states
        return states


def trace(model: torch.nn.Module, inputs: Sequence[InputSpec], blocks: int) -> ir.Model:
    """Exports ``model`` with dynamic batch and sequence.

    Args:
        model: from transformers, in evaluation mode.
        inputs: the graph's inputs.
        blocks: embeddings and layers, so as many hidden states.

    Returns:
        The graph, with the outputs ``hidden.0`` to ``hidden.<blocks - 1>``.

    Raises:
        PacplusError: the exporter failed.
    """
    names = [spec.name for spec in inputs]
    example = tuple(torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64) for _ in names)
    axes = {0: "batch", 1: "sequence"}
    with quiet(), _order_free_attention(model), contextlib.redirect_stdout(io.StringIO()):
        try:
            program = torch.onnx.export(
                HiddenStates(model, names),
                example,
                dynamo=True,
                opset_version=_OPSET,
                input_names=names,
                output_names=[hidden_name(block) for block in range(blocks)],
                dynamic_shapes=(tuple(axes for _ in names),),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().split("\n")[0]
            raise PacplusError(f"PyTorch cannot export this model: {reason}") from error
    assert program is not None
    return program.model


@contextlib.contextmanager
def _order_free_attention(model: Any) -> Iterator[None]:
    """Has the model use our attention, see :mod:`.attention`."""
    attention.register()
    before = model.config._attn_implementation
    model.config._attn_implementation = attention.IMPLEMENTATION
    try:
        yield
    finally:
        model.config._attn_implementation = before
