"""A model's layers and what flows through them: the material for pruning."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.contract.errors import PacplusError
from edge_runtime.contract.manifest import InputSpec, Stream
from export.checkpoint.families import Family
from export.checkpoint.layer_maps import Attention
from export.checkpoint.quiet import quiet
from export.tracing.trace import HiddenStates
from export.verify.samples import Sample, pad_batch

_ROWS = 1024
"""Tokens of each sequence that are kept, spread over all samples."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """A linear map as ``x @ matrix + bias``, and its inputs.

    Attributes:
        matrix: (inputs, outputs); a part of the module's where one makes several maps.
        bias: (outputs,).
        inputs: (tokens, inputs), of the observed tokens.
    """

    matrix: Tensor
    bias: Tensor
    inputs: Tensor

    @property
    def outputs(self) -> Tensor:
        """(tokens, outputs)."""
        return torch.addmm(self.bias, self.inputs, self.matrix)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class AttentionMaps:
    """The maps of an attention."""

    q: LinearMap
    k: LinearMap
    v: LinearMap
    out: LinearMap


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The maps of a layer; ``fc1`` of a gated one is the gate."""

    attention: AttentionMaps
    cross: AttentionMaps | None
    fc1: LinearMap
    fc2: LinearMap


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A stack of the backbone.

    Attributes:
        states: its hidden states, (tokens, d) each, of the observed tokens.
        layers: one fewer; layer i makes ``states[i + 1]``.
    """

    states: list[Tensor]
    layers: list[Layer]


def observe_stacks(
    model: nn.Module, family: Family, inputs: Sequence[InputSpec], samples: Sequence[Sample]
) -> list[Stack]:
    """Runs the samples one by one and keeps what some of their tokens go through.

    Args:
        model: the backbone in PyTorch.
        family: its row of the table.
        inputs: the graph's inputs.
        samples: token inputs, unpadded.

    Returns:
        The stacks in order: one, or an encoder and a decoder.

    Raises:
        PacplusError: the model's layers are not named as the table says.
    """
    wrapper = HiddenStates(model, family, inputs)
    both = len(wrapper.streams) > 1
    parts = [wrapper.encoder, wrapper.decoder] if both else [wrapper.model]
    layers = [_find_layers(part, family) for part in parts]
    recorder = _Recorder()
    streams: list[Stream] = []
    for stream, found in zip(wrapper.streams, layers, strict=True):
        streams += [stream] * (len(found) + 1)
        for layer in found:
            recorder.listen(_modules(layer, family), stream)
            if _crosses(layer, family):
                memory = _attention_modules(layer, family.maps.cross)[1:3]
                recorder.listen(memory, wrapper.streams[0])
    states = recorder.run(wrapper, inputs, samples, streams)
    stacks = []
    for found in layers:
        own, states = states[: len(found) + 1], states[len(found) + 1 :]
        stacks.append(Stack(own, [_layer(layer, family, recorder) for layer in found]))
    return stacks


class _Recorder:
    """Keeps inputs of modules, and hidden states, of evenly spread tokens."""

    def __init__(self) -> None:
        self._streams: dict[nn.Module, Stream] = {}
        self._inputs: dict[nn.Module, list[Tensor]] = {}
        self._rows: dict[Stream, Tensor] = {}
        self._finished = 0

    def listen(self, modules: Sequence[nn.Module], stream: Stream) -> None:
        """Keeps inputs of ``modules``, which have a row for each token of ``stream``."""
        self._streams |= dict.fromkeys(modules, stream)

    def inputs(self, module: nn.Module) -> Tensor:
        """What the module was fed with, (tokens, channels)."""
        return torch.cat(self._inputs[module])

    def run(
        self,
        wrapper: HiddenStates,
        inputs: Sequence[InputSpec],
        samples: Sequence[Sample],
        streams: Sequence[Stream],
    ) -> list[Tensor]:
        """Runs the samples one by one, so that nothing is padded.

        Returns:
            The hidden states, which are those of ``streams``, (tokens, channels) each.
        """
        self._inputs = {module: [] for module in self._streams}
        share = max(1, _ROWS // len(samples))
        kept: list[list[Tensor]] = []
        hooks = [module.register_forward_pre_hook(self._keep) for module in self._streams]
        try:
            with quiet(), torch.inference_mode():
                for self._finished, sample in enumerate(samples):
                    batch = pad_batch([sample], inputs)
                    lengths = {spec.stream: batch[spec.name].shape[1] for spec in inputs}
                    self._rows = {stream: _spread(n, share) for stream, n in lengths.items()}
                    states = wrapper(*(torch.from_numpy(batch[name]) for name in wrapper.names))
                    kept.append(
                        [s[0, self._rows[each]] for s, each in zip(states, streams, strict=True)]
                    )
        finally:
            for hook in hooks:
                hook.remove()
        return [torch.cat(parts) for parts in zip(*kept, strict=True)]

    def _keep(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        # DeBERTa then feeds some maps with its table of relative positions, too.
        if len(self._inputs[module]) == self._finished:
            tokens = arguments[0].reshape(-1, arguments[0].shape[-1])
            self._inputs[module].append(tokens[self._rows[self._streams[module]]])


def _spread(length: int, count: int) -> Tensor:
    places = np.linspace(0, length - 1, min(count, length)).round()
    return torch.from_numpy(places.astype(np.int64))


def _find_layers(stack: nn.Module, family: Family) -> list[nn.Module]:
    for module in stack.modules():
        layers = list(module) if isinstance(module, nn.ModuleList) else []
        if layers and all(_find(layer, family.maps.attention[0]) for layer in layers):
            return layers
    raise _unknown(stack, family.maps.attention[0])


def _find(layer: nn.Module, pattern: str) -> nn.Module | None:
    names = [name for name, _ in layer.named_modules() if fnmatch.fnmatchcase(name, pattern)]
    return layer.get_submodule(names[0]) if names else None


def _get(layer: nn.Module, pattern: str) -> nn.Module:
    module = _find(layer, pattern)
    if module is None:
        raise _unknown(layer, pattern)
    return module


def _unknown(module: nn.Module, pattern: str) -> PacplusError:
    return PacplusError(
        f"nothing in this {type(module).__name__} is called {pattern}, so it cannot be pruned; "
        "export with --adapter-init random"
    )


def _modules(layer: nn.Module, family: Family) -> list[nn.Module]:
    maps = family.maps
    found = _attention_modules(layer, maps.attention)
    if _crosses(layer, family):
        found += _attention_modules(layer, maps.cross)
    return found + [_get(layer, pattern) for pattern in maps.feed_forward]


def _attention_modules(layer: nn.Module, names: Attention | None) -> list[nn.Module]:
    return [_get(layer, pattern) for pattern in names or ()]


def _crosses(layer: nn.Module, family: Family) -> bool:
    """Decided by the layer: encoder and decoder of a family share a row of the table."""
    return family.maps.cross is not None and _find(layer, family.maps.cross[0]) is not None


def _layer(layer: nn.Module, family: Family, recorder: _Recorder) -> Layer:
    maps = family.maps
    fc1, fc2 = (_linear(_get(layer, pattern), recorder) for pattern in maps.feed_forward)
    cross = _attention(layer, maps.cross, recorder) if _crosses(layer, family) else None
    return Layer(
        attention=_attention(layer, maps.attention, recorder),
        cross=cross,
        fc1=_part(fc1, 0, len(fc2.matrix)),
        fc2=fc2,
    )


def _attention(layer: nn.Module, names: Attention | None, recorder: _Recorder) -> AttentionMaps:
    modules = _attention_modules(layer, names)
    q, k, v, out = (_linear(module, recorder) for module in modules)
    if modules[0] is modules[1]:
        size = q.matrix.shape[1] // 3
        q, k, v = (_part(q, index, size) for index in range(3))
    return AttentionMaps(q=q, k=k, v=v, out=out)


def _linear(module: nn.Module, recorder: _Recorder) -> LinearMap:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    # GPT-2's maps, which are no nn.Linear, keep their weights as (inputs, outputs).
    matrix = weight.t() if isinstance(module, nn.Linear) else weight
    if not isinstance(bias, Tensor):
        bias = matrix.new_zeros(matrix.shape[1])
    return LinearMap(matrix, bias, recorder.inputs(module))


def _part(whole: LinearMap, index: int, size: int) -> LinearMap:
    """Some of the outputs; all where there are no others."""
    columns = slice(index * size, (index + 1) * size)
    return LinearMap(whole.matrix[:, columns], whole.bias[columns], whole.inputs)
