"""Records the inputs of a model's linear maps: the material for pruning."""

import contextlib
import dataclasses
import fnmatch
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.contract.errors import PacplusError
from edge_runtime.contract.manifest import InputSpec, Stream
from export.checkpoint.families import Family
from export.checkpoint.load import LoadedModel
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
    """A stack of the backbone: its hidden states, (tokens, d) each, of the observed tokens.

    Layer i makes ``states[i + 1]``.
    """

    states: list[Tensor]
    layers: list[Layer]


def observe_stacks(loaded: LoadedModel, samples: Sequence[Sample]) -> list[Stack]:
    """Runs the samples one by one and records the inputs of every map for some tokens.

    Returns:
        The stacks in order: one, or an encoder and a decoder.

    Raises:
        PacplusError: the model's layers are not named as the table says.
    """
    wrapper, family = HiddenStates(loaded), loaded.family
    both = len(wrapper.streams) > 1
    parts = [wrapper.encoder, wrapper.decoder] if both else [wrapper.model]
    stacks = [[_modules(layer, family) for layer in _find_layers(part, family)] for part in parts]
    recorder = _Recorder()
    streams: list[Stream] = []
    for stream, layers in zip(wrapper.streams, stacks, strict=True):
        streams += [stream] * (len(layers) + 1)
        for layer in layers:
            recorder.listen([*layer.attention, *layer.cross, *layer.feed_forward], stream)
            recorder.listen(layer.cross[1:3], wrapper.streams[0])
    states = recorder.run(wrapper, loaded.inputs, samples, streams)
    observed = []
    for layers in stacks:
        own, states = states[: len(layers) + 1], states[len(layers) + 1 :]
        observed.append(Stack(own, [_layer(layer, recorder) for layer in layers]))
    return observed


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Modules:
    """The modules of a layer's maps; ``cross`` is empty where there is none."""

    attention: list[nn.Module]
    cross: list[nn.Module]
    feed_forward: list[nn.Module]


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
        with contextlib.ExitStack() as hooks, quiet(), torch.inference_mode():
            for module in self._streams:
                hooks.callback(module.register_forward_pre_hook(self._keep).remove)
            for self._finished, sample in enumerate(samples):
                batch = pad_batch([sample], inputs)
                lengths = {spec.stream: batch[spec.name].shape[1] for spec in inputs}
                self._rows = {stream: _spread(n, share) for stream, n in lengths.items()}
                states = wrapper(*(torch.from_numpy(batch[name]) for name in wrapper.names))
                rows = zip(states, (self._rows[stream] for stream in streams), strict=True)
                kept.append([state[0, places] for state, places in rows])
        return [torch.cat(parts) for parts in zip(*kept, strict=True)]

    def _keep(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        # DeBERTa then feeds some maps with its table of relative positions, too.
        if len(self._inputs[module]) == self._finished:
            tokens = arguments[0].reshape(-1, arguments[0].shape[-1])
            self._inputs[module].append(tokens[self._rows[self._streams[module]]])

    def linear(self, module: nn.Module) -> LinearMap:
        """The module's map, with its inputs of the recorded tokens."""
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        # GPT-2's maps, which are no nn.Linear, keep their weights as (inputs, outputs).
        matrix = weight.t() if isinstance(module, nn.Linear) else weight
        if not isinstance(bias, Tensor):
            bias = matrix.new_zeros(matrix.shape[1])
        return LinearMap(matrix, bias, torch.cat(self._inputs[module]))


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


def _get(layer: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    found = []
    for pattern in patterns:
        module = _find(layer, pattern)
        if module is None:
            raise _unknown(layer, pattern)
        found.append(module)
    return found


def _unknown(module: nn.Module, pattern: str) -> PacplusError:
    return PacplusError(
        f"nothing in this {type(module).__name__} is called {pattern}, so it cannot be pruned; "
        "export with --adapter-init random"
    )


def _modules(layer: nn.Module, family: Family) -> _Modules:
    maps = family.maps
    # Encoder and decoder of a family share a row of the table: the layer decides.
    crosses = maps.cross is not None and _find(layer, maps.cross[0]) is not None
    return _Modules(
        attention=_get(layer, maps.attention),
        cross=_get(layer, maps.cross or ()) if crosses else [],
        feed_forward=_get(layer, maps.feed_forward),
    )


def _layer(modules: _Modules, recorder: _Recorder) -> Layer:
    fc1, fc2 = map(recorder.linear, modules.feed_forward)
    return Layer(
        attention=_attention(modules.attention, recorder),
        cross=_attention(modules.cross, recorder) if modules.cross else None,
        fc1=_part(fc1, 0, len(fc2.matrix)),
        fc2=fc2,
    )


def _attention(modules: Sequence[nn.Module], recorder: _Recorder) -> AttentionMaps:
    q, k, v, out = map(recorder.linear, modules)
    if modules[0] is modules[1]:
        size = q.matrix.shape[1] // 3
        q, k, v = (_part(q, index, size) for index in range(3))
    return AttentionMaps(q=q, k=k, v=v, out=out)


def _part(whole: LinearMap, index: int, size: int) -> LinearMap:
    """Some of the outputs; all where there are no others."""
    columns = slice(index * size, (index + 1) * size)
    return LinearMap(whole.matrix[:, columns], whole.bias[columns], whole.inputs)
