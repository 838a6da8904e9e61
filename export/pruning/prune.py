"""Cuts initial adapters out of the backbone: structured pruning of its layers.

Side block i begins as backbone layer i with most of its channels removed, as in Ladder
Side-Tuning (Sung et al., 2022) and PAC+. What stays is chosen by the fluctuation metric
of FLAP (An et al., 2024): an input channel j of a linear map is worth Var(x_j) |W_j|^2,
the energy that leaves with it. That needs no loss, so one rule serves encoders and language
models; as there, the means of what is removed go into biases.

Channels of the residual stream are chosen once for a whole stack, since all its layers
read and write the same ones. Heads and feed-forward channels are private to a layer, and
are chosen layer by layer.

Every tensor is a part of the backbone's, times few factors (x: what the backbone's map
reads; z: what the side block's map reads, the chosen channels after layer normalization):

- ``down``: 1 / (down_scale * std), so that the chosen channels arrive with unit variance,
  as a random projection's do; its bias centres them.
- rows of maps that read the stream: +-std(x_c) / std(z_c), which folds in the weights of
  the backbone's normalization, whatever its kind.
- q, k, v, fc1 as wholes: the spread over tokens that their outputs had in the backbone; fewer
  inputs would shrink them. So values keep their size, and scores do, being means over
  channels of q * k but for the root of their number, by which they are divided.
- out and fc2 as wholes: ``_RESIDUAL_GAIN`` of the unit variance of the side state. A
  backbone's branches can be larger than its stream; random side blocks begin at this gain.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edge_runtime.contract.adapter import NORM_EPSILON, AdapterConfig, SideStack
from export.checkpoint.load import LoadedModel
from export.verify.samples import Sample

from .importance import attention_channels, best, importance, key_channels, residual_channels
from .observe import AttentionMaps, Layer, LinearMap, Stack, observe_stacks

_RESIDUAL_GAIN = 0.3
_SMALLEST_STD = 1e-6
"""Of what does not vary at all; keeps factors finite."""
_QUIET = 0.1
"""Least deviation of a side state's channel, as a divisor; the state's variance is 1."""

Tensors = dict[str, Tensor]


def pruned_tensors(
    loaded: LoadedModel, samples: Sequence[Sample], config: AdapterConfig
) -> Tensors:
    """Computes initial values of an attention adapter that reads every hidden state.

    Returns:
        Tensors by their names in ``adapter_model.safetensors``: all but those that begin
        as constants (``gate``, ``up``) and the pooled head, of which the backbone has none.

    Raises:
        UsageError: the adapter is wider than the backbone's heads together.
    """
    heads: int = loaded.backbone.config.num_attention_heads
    stacks = observe_stacks(loaded, samples)
    tensors: Tensors = {}
    memory = None
    with torch.inference_mode():
        for side, stack in zip(config.stacks, stacks, strict=True):
            pruner = _StackPruner(config, side, stack, heads, loaded.family.plain_scores, memory)
            tensors |= pruner.tensors()
            memory = pruner.stream(-1)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """The input of side blocks, (tokens, w), and the channels of the backbone it stands for."""

    values: Tensor
    channels: Tensor


class _StackPruner:
    """Cuts the side stack out of one stack of the backbone."""

    def __init__(
        self,
        config: AdapterConfig,
        side: SideStack,
        stack: Stack,
        heads: int,
        plain_scores: bool,
        memory: _Stream | None,
    ) -> None:
        self._config, self._side, self._stack = config, side, stack
        self._heads, self._plain_scores, self._memory = heads, plain_scores, memory
        self._channels = residual_channels(stack, config.width)
        self._chosen = [_normalize(state)[:, self._channels] for state in stack.states]

    def tensors(self) -> Tensors:
        """The stack's tensors."""
        prefix, tensors = self._side.prefix, self._down()
        for index, layer in enumerate(self._stack.layers):
            block = self._block(layer, self.stream(index))
            tensors |= {f"blocks.{index}.{name}": value for name, value in block.items()}
        return {prefix + name: value for name, value in tensors.items()}

    def stream(self, index: int) -> _Stream:
        """The side state of hidden state ``index``, as a block that reads it alone sees it."""
        chosen = self._chosen[index]
        return _Stream(_normalize(_centred(chosen) / _spread(chosen)), self._channels)

    def _down(self) -> Tensors:
        size, width = self._config.hidden_size, self._config.width
        weight = torch.zeros(self._side.layers, size, width)
        bias = torch.zeros(self._side.layers, width)
        for layer, chosen in enumerate(self._chosen):
            std = _spread(chosen)
            weight[layer, self._channels, torch.arange(width)] = 1 / (self._config.down_scale * std)
            bias[layer] = -chosen.mean(0) / std
        return {"down.weight": weight, "down.bias": bias}

    def _block(self, layer: Layer, stream: _Stream) -> Tensors:
        q, k, v, out = self._attention(layer.attention, stream, stream)
        tensors = {"qkv.weight": torch.cat((q, k, v), 1), "out.weight": out}
        if layer.cross is not None and self._memory is not None:
            q, k, v, out = self._attention(layer.cross, stream, self._memory)
            tensors |= {"cross.q.weight": q, "cross.kv.weight": torch.cat((k, v), 1)}
            tensors["cross.out.weight"] = out
        return tensors | self._feed_forward(layer, stream)

    def _attention(
        self, maps: AttentionMaps, stream: _Stream, memory: _Stream
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        config, inputs = self._config, len(maps.out.matrix)
        scored, mixed = attention_channels(maps, self._heads, config.num_heads, config.width)
        shared, channels = inputs // maps.v.matrix.shape[1], inputs // self._heads
        q = _reading(maps.q, scored, stream)
        if self._plain_scores:
            q = q * math.sqrt(channels)
        k = _reading(maps.k, key_channels(scored, channels, shared), memory)
        v = _reading(maps.v, key_channels(mixed, channels, shared), memory)
        return q, k, v, _writing(maps.out.inputs[:, mixed], maps.out.matrix[mixed], stream)

    def _feed_forward(self, layer: Layer, stream: _Stream) -> Tensors:
        count = self._config.width * self._config.feed_forward_ratio
        kept = best(importance(layer.fc2), count)
        fc1 = _reading(layer.fc1, kept, stream)
        read = stream.values @ fc1
        bias = (layer.fc1.outputs[:, kept] - read).mean(0)
        active = torch.nn.functional.silu(read + bias)
        fc2 = _writing(active, layer.fc2.matrix[kept], stream)
        return {"fc1.weight": fc1, "fc1.bias": bias, "fc2.weight": fc2}


def _reading(linear: LinearMap, columns: Tensor, stream: _Stream) -> Tensor:
    """Part of a map that reads the stream, (w, columns)."""
    read = _centred(linear.inputs[:, stream.channels])
    values = _centred(stream.values)
    gain = _deviation(read) / _deviation(values).clamp(min=_QUIET) * (read * values).sum(0).sign()
    part = gain[:, None] * linear.matrix[stream.channels][:, columns]
    return part * (_spread(linear.outputs[:, columns]) / _spread(values @ part))


def _writing(values: Tensor, rows: Tensor, stream: _Stream) -> Tensor:
    """Part of a map that writes to the stream, (rows, w)."""
    part = rows[:, stream.channels]
    return part * (_RESIDUAL_GAIN / _spread(values @ part))


def _normalize(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def _deviation(x: Tensor) -> Tensor:
    """Of every channel over tokens."""
    return x.std(0, correction=0)


def _spread(x: Tensor) -> Tensor:
    """Standard deviation over tokens of all channels together."""
    return _centred(x).square().mean().sqrt().clamp(min=_SMALLEST_STD)
