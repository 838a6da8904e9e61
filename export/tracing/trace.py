"""Traces a PyTorch model into one ONNX graph whose outputs are all hidden states."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
import torch

from edge_runtime.contract.errors import BadInputError, PacplusError
from edge_runtime.contract.manifest import InputSpec, Stream
from export.checkpoint.load import LoadedModel
from export.checkpoint.quiet import quiet
from export.ir.graph import OPSET, hidden_name
from export.wording import first_line

from . import attention

# Unlike in every axis, so that no two axes are taken for one.
_EXAMPLE_BATCH = 2
_EXAMPLE_LENGTHS: dict[Stream, int] = {"encoder": 9, "decoder": 7}

States = tuple[torch.Tensor, ...]


class HiddenStates(torch.nn.Module):
    """Returns the embeddings' output and every layer's, (batch, sequence, channels) each.

    An encoder-decoder's encoder comes first; both its stacks begin with embeddings.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.names = tuple(spec.name for spec in loaded.inputs)
        self.streams = tuple(dict.fromkeys(spec.stream for spec in loaded.inputs))
        self.own_masks = loaded.family.own_masks
        if len(self.streams) == 1:
            self.model = loaded.backbone
        else:
            self.encoder = loaded.backbone.get_encoder()
            self.decoder = loaded.backbone.get_decoder()

    def forward(self, *inputs: torch.Tensor) -> States:
        """Runs the model; ``inputs`` are in the order of ``names``."""
        fields: dict[str, Any] = dict(zip(self.names, inputs, strict=True))
        if len(self.streams) > 1:
            return self._both(**fields)
        if self.streams == ("decoder",):
            fields |= {"position_ids": token_positions(fields["attention_mask"])}
            fields["use_cache"] = False
        if not self.own_masks:
            fields["attention_mask"] = attention.additive_mask(fields["attention_mask"])
        return _states(self.model(**fields, output_hidden_states=True))

    def _both(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: torch.Tensor,
    ) -> States:
        encoded = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            output_hidden_states=True,
            use_cache=False,
        )
        return (*_states(encoded), *_states(decoded))


def token_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Counts tokens only, so that positions do not depend on the side of the padding.

    Returns:
        As the mask, (batch, sequence) int64: 0 on the first token and on what is before it.
    """
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def _states(output: Any) -> States:
    states: States = tuple(output.hidden_states)
    return states


def count_blocks(loaded: LoadedModel) -> tuple[Stream, ...]:
    """Runs the model once to see how many hidden states each of its stacks has.

    Returns:
        The stream of every block, in order.

    Raises:
        BadInputError: the states are not equally wide; an adapter could not read them.
    """
    with quiet(), torch.inference_mode():
        states = HiddenStates(loaded)(*_example(loaded.inputs))
    width = states[0].shape[-1]
    for index, state in enumerate(states):
        if state.shape[-1] != width:
            raise BadInputError(
                f"hidden state {index} of this model has {state.shape[-1]} channels, the first "
                f"has {width}; such models are not supported"
            )
    names = {length: stream for stream, length in _EXAMPLE_LENGTHS.items()}
    return tuple(names[state.shape[1]] for state in states)


def trace(loaded: LoadedModel, blocks: int) -> ir.Model:
    """Exports the backbone, which has ``blocks`` hidden states, with dynamic batch and sequences.

    Returns:
        The graph, with the outputs ``hidden.0`` to ``hidden.<blocks - 1>``.

    Raises:
        PacplusError: the exporter failed.
    """
    silent = contextlib.redirect_stdout(io.StringIO())
    with quiet(), _order_free_attention(loaded.backbone), silent:
        try:
            program = torch.onnx.export(
                HiddenStates(loaded),
                _example(loaded.inputs),
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in loaded.inputs],
                output_names=[hidden_name(block) for block in range(blocks)],
                dynamic_shapes=(_axes(loaded.inputs),),
                optimize=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise PacplusError(f"PyTorch cannot export this model: {first_line(error)}") from error
    assert program is not None
    _simplify(program.model)
    return program.model


def _simplify(model: ir.Model) -> None:
    """Folds constants and removes what is there twice or for nothing.

    In place of the exporter's own optimiser: some of that one's rewriting rules search all
    of the graph for every node, which took longer than tracing for 30 layers.
    """
    common.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.NameFixPass()(model)


def _example(inputs: Sequence[InputSpec]) -> States:
    return tuple(
        torch.ones((_EXAMPLE_BATCH, _EXAMPLE_LENGTHS[spec.stream]), dtype=torch.int64)
        for spec in inputs
    )


def _axes(inputs: Sequence[InputSpec]) -> tuple[dict[int, str], ...]:
    first = inputs[0].stream
    return tuple(
        {0: "batch", 1: "sequence" if spec.stream == first else f"{spec.stream}_sequence"}
        for spec in inputs
    )


@contextlib.contextmanager
def _order_free_attention(model: torch.nn.Module) -> Iterator[None]:
    """Has the model use our attention, see :mod:`.attention`."""
    attention.register()
    # The stacks of an encoder-decoder may have copies of the configuration.
    parts = [part for part in model.modules() if hasattr(part, "config")]
    configs: list[Any] = list({id(part.config): part.config for part in parts}.values())
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = attention.IMPLEMENTATION
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
