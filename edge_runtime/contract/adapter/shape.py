"""Shape of the Parallel Adapters; saved as ``adapter_config.json``."""

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.checks import require
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import Task

AdapterKind = Literal["attention", "mlp", "pointer"]
Initialization = Literal["random", "pruned"]

NORM_EPSILON = 1e-5
"""Of every layer normalization in side network and head."""

# Adam moves every weight by about the learning rate, whatever its gradient, so an output
# with many inputs jumps. Wide matrices therefore see their n inputs scaled by REACH / n (and
# start larger in proportion), as in the maximal update parametrization (Yang et al., 2021):
# one update then moves an output by some REACH learning rates for backbones of any width.
# Without it training is chaotic: rounding errors of one epoch grew to 0.5 % of the next
# one's loss; with it they stay below 0.001 % (MiniLM, SST-2, learning rate 2e-3).
DOWN_REACH = 96.0
HEAD_REACH = 48.0
# Of the normalized last side state before a language model's ``up.weight``, whose zeros
# must grow into logits within few steps (a 260,000-parameter Llama, 400 steps at a learning
# rate of 5e-3: held-out loss 4.34 with 4, 3.90 with 16, 3.67 with 48 and with 192; at 2e-3
# 3.84 with 48, 3.72 with 192 and with 768).
UP_REACH = 192.0
# Of the comparison of a pair's segments before ``comparison.weight``. Larger than the head's,
# since what it reads is fixed and mostly the same for every sample.
COMPARISON_REACH = 1000.0

# Of the normalized last side state where a pointer's queries and gates are made of it.
POINTER_REACH = 192.0
# Of the constants beside those gates.
GATE_REACH = 10.0

POINTER_BLOCKS = 3
"""Side blocks of a pointer's side network, which reads all layers at once."""
POINTER_HEADS = 4
"""Ways at a time in which it points at earlier tokens."""
POINTER_CHANNELS = 32
"""Channels of a head's queries and keys."""
POINTER_LAYERS = 4
"""Most layers that tokens to point at are recognized by."""

COMPARISON_PARTS = 5
"""Vectors of width d that compare a pair's segments in one layer."""
COMPARED_LAYERS = 4
"""Most layers that a pair's segments are compared in."""
ALIGNMENT_SHARPNESS = 20.0
"""Factor of the cosines of two tokens before the softmax that aligns them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SideStack:
    """The part of a side network along one stack of the backbone.

    Attributes:
        prefix: of its tensors' names; empty where there is one stack only.
        layers: hidden states that it reads; it has a block for each but the first.
        cross: its blocks attend to the encoder's last side state, whatever their kind.
    """

    prefix: str
    layers: int
    cross: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Shape of the side network and its head.

    Attributes:
        kind: of the side block A_i; or ``pointer``: blocks behind one sum over all layers, and
            heads that raise the logits of tokens of the context.
        hidden_size: backbone width d.
        reduction: r; the adapter width is ``hidden_size // reduction``.
        num_heads: attention heads of a side block.
        feed_forward_ratio: hidden channels of a side block's MLP, in adapter widths.
        initial_gate: g_i before training; mu_i = sigmoid(g_i) is the share of s_{i-1}.
        layers: indices of the backbone hidden states that are read, ascending; the last
            one is always the backbone's last. Index 0 is the embeddings block's output.
        encoder_layers: how many of ``layers``, the first ones, belong to the encoder of an
            encoder-decoder: it has a side network of its own, to whose last state the
            other's blocks attend. 0 where there is one stack only.
        causal: tokens of the (last) stack see earlier ones only.
        initialization: source of the weights that are neither zero nor constant: a
            generator, or the backbone's own layers, pruned.
        task: decides head and loss.
        num_outputs: classes; 1 for regression; the vocabulary of a language model.
        logit_scale: of the frozen language-model head, see ``HeadSpec``.
        logit_softcap: likewise.
        pair: the data has ``text_pair``; each segment is pooled apart, and the tokens of
            one are compared with those of the other.
        target_mean: of regression's targets; with ``target_scale``, their standard deviation,
            it standardizes them, so that the learning rate does not depend on their unit, and
            so that float32, in which devices compute, tells large ones apart.
        base_model: model id of the backbone.
        labels: class names in output order; empty for regression.
    """

    kind: AdapterKind = "attention"
    hidden_size: int
    reduction: int = 8
    num_heads: int = 1
    feed_forward_ratio: int = 1
    initial_gate: float = 0.0
    layers: tuple[int, ...]
    encoder_layers: int = 0
    causal: bool = False
    initialization: Initialization = "random"
    task: Task
    num_outputs: int
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    pair: bool = False
    target_mean: float = 0.0
    target_scale: float = 1.0
    base_model: str = ""
    bundle_digest: Sha256 = Sha256("")
    labels: tuple[str, ...] = ()
    peft_type: Literal["PARALLEL_ADAPTER"] = "PARALLEL_ADAPTER"

    def __post_init__(self) -> None:
        sizes = (self.hidden_size, self.reduction, self.num_heads, self.num_outputs)
        named = "hidden_size, reduction, num_heads and num_outputs"
        require(min(sizes) >= 1, f"{named} must be positive")
        channels = self.hidden_size // self.reduction
        left = f"reduction {self.reduction} leaves {channels} channels"
        require(channels >= self.num_heads, f"{left}, fewer than the {self.num_heads} heads")
        ascending = self.layers and list(self.layers) == sorted(set(self.layers))
        layers = ascending and self.layers[0] >= 0
        require(layers, "layers must be ascending, distinct and not negative")
        decodes = 0 <= self.encoder_layers < len(self.layers)
        require(decodes, "encoder_layers must leave a layer for the decoder")
        points = not self.copies or (self.task == "causal-lm" and not self.encoder_layers)
        require(points, f"kind pointer is of a causal language model, not of {self.task}")
        require(self.feed_forward_ratio >= 1, "feed_forward_ratio must be positive")
        finite = math.isfinite(self.initial_gate) and math.isfinite(self.target_mean)
        require(finite, "initial_gate and target_mean must be finite")
        require(0 < self.target_scale < math.inf, "target_scale must be positive and finite")

    @property
    def width(self) -> int:
        """Adapter width w."""
        return self.hidden_size // self.reduction // self.num_heads * self.num_heads

    @property
    def stacks(self) -> tuple[SideStack, ...]:
        """The side network's stacks; the last one is the one that outputs."""
        if not self.encoder_layers:
            return (SideStack(prefix="", layers=len(self.layers)),)
        own = len(self.layers) - self.encoder_layers
        return (
            SideStack(prefix="encoder.", layers=self.encoder_layers),
            SideStack(prefix="decoder.", layers=own, cross=True),
        )

    @property
    def copies(self) -> bool:
        """It points at earlier tokens, whose ids it therefore needs: a language model's copying."""
        return self.kind == "pointer"

    @property
    def generative(self) -> bool:
        """A language model: its outputs are logits of every token, by the frozen head."""
        return self.task in ("causal-lm", "seq2seq")

    def standardized(self, values_N: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Standardizes targets of a regression: what the side network learns to give out.

        In float64, since Unix timestamps that are a minute apart are one value in float32.
        """
        centred = np.asarray(values_N, np.float64) - self.target_mean
        return (centred / self.target_scale).astype(np.float32)

    @property
    def head_features(self) -> int:
        """Width of the pooled head's input: one segment, or |u - v| and u * v of two."""
        return self.hidden_size * (2 if self.pair else 1)

    @property
    def compared_layers(self) -> tuple[int, ...]:
        """Places in ``layers`` to compare a pair's segments at: spread evenly up to the last."""
        return self._spread(COMPARED_LAYERS) if self.pair else ()

    @property
    def pointer_layers(self) -> tuple[int, ...]:
        """Places in ``layers`` that a pointer recognizes tokens by: spread up to the last."""
        return self._spread(POINTER_LAYERS) if self.copies else ()

    def _spread(self, most: int) -> tuple[int, ...]:
        last = len(self.layers) - 1
        steps = min(most, len(self.layers)) - 1
        return (*(last * step // steps for step in range(steps)), last)

    def side_blocks(self, stack: SideStack) -> int:
        """Counts the side blocks along a stack."""
        return POINTER_BLOCKS if self.copies else stack.layers - 1

    @property
    def score_heads(self) -> int:
        """Heads that have a score for every pair of tokens."""
        return POINTER_HEADS if self.copies else self.num_heads

    @property
    def reads_each_token_alone(self) -> bool:
        """A token's side state depends on that token's own hidden states alone."""
        return self.kind != "attention" and not self.encoder_layers

    @property
    def comparison_features(self) -> int:
        """Features that the comparison of a pair's segments adds to the head's input."""
        return len(self.compared_layers) * COMPARISON_PARTS * self.hidden_size

    @property
    def comparison_scale(self) -> float:
        """Factor of the comparison before ``comparison.weight``."""
        return COMPARISON_REACH / max(1, self.comparison_features)

    @property
    def down_scale(self) -> float:
        """Factor of the normalized hidden states before ``down.weight``."""
        return DOWN_REACH / self.hidden_size

    @property
    def up_scale(self) -> float:
        """Factor of a language model's last side state before ``up.weight``."""
        return UP_REACH / self.width

    @property
    def head_scale(self) -> float:
        """Factor of the head's features before ``head.weight``."""
        return HEAD_REACH / self.head_features


INITIAL_SHAPE = "initial_shape"
"""Entry of the metadata of given initial weights."""


def initial_shape(config: AdapterConfig) -> dict[str, str]:
    """Names the fields that given initial weights depend on.

    Written as JSON into ``adapter_init.safetensors``, under ``INITIAL_SHAPE`` of its metadata.
    """
    return {
        "kind": config.kind,
        "reduction": str(config.reduction),
        "num_heads": str(config.num_heads),
        "layers": ",".join(map(str, config.layers)),
    }
