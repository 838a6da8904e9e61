"""Shape and training options of the Parallel Adapters; saved as ``adapter_config.json``."""

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .checks import require
from .errors import UnresumableError
from .ids import Sha256
from .manifest import Task
from .tensors import read_tensors, write_tensors

AdapterKind = Literal["attention", "mlp", "pointer"]
Initialization = Literal["random", "pruned"]
Loss = Literal["candidates", "exact"]
Schedule = Literal["linear", "cosine", "constant"]

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Everything that decides the result of training, apart from the data.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples of a global batch, and the number S of logical shards.
        learning_rate: peak of the schedule; None takes the adapter's, see :func:`settled`.
        schedule: of the rate after a linear warm-up: it falls to 0, linearly or along a half
            cosine, or stays.
        warmup_fraction: share of all steps that warm up.
        weight_decay: AdamW's, on the side network's matrices; neither on the head nor on
            vectors; None takes the adapter's, see :func:`settled`.
        average_fraction: the weights in use are a running mean over this share of all
            steps, which evens out the last batches; 0 uses the current weights.
        max_gradient_norm: clipping after the division by the global count; 0 is off.
        seed: decides the adapter's initial weights and the order of samples.
        adapter_seed: decides the initial weights in its place, if it is given.
        loss: of a language model: over the whole vocabulary at each step, or over a line's
            likeliest tokens and a sample of the others.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float | None = None
    schedule: Schedule = "linear"
    warmup_fraction: float = 0.06
    weight_decay: float | None = None
    average_fraction: float = 0.1
    max_gradient_norm: float = 1.0
    seed: int = 0
    adapter_seed: int | None = None
    loss: Loss = "candidates"

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "epochs must not be negative")
        require(1 <= self.batch_size <= 4096, "batch_size must be between 1 and 4096")
        given = self.learning_rate is None or 0 < self.learning_rate < math.inf
        require(given, "learning_rate must be positive and finite")
        require(0 <= self.seed < 1 << 63, "seed must be between 0 and 2**63 - 1")
        of_weights = 0 <= (self.adapter_seed or 0) < 1 << 63
        require(of_weights, "adapter_seed must be between 0 and 2**63 - 1")
        fractions = 0 <= self.warmup_fraction <= 1 and 0 <= self.average_fraction <= 1
        require(fractions, "warmup_fraction and average_fraction must be between 0 and 1")
        decays = 0 <= (self.weight_decay or 0) < math.inf
        require(decays, "weight_decay must be finite and not negative")
        require(self.max_gradient_norm >= 0, "max_gradient_norm must not be negative")

    @property
    def peak(self) -> float:
        """The learning rate, where it is settled.

        Raises:
            ValueError: it is the adapter's still.
        """
        if self.learning_rate is None:
            raise ValueError("the learning rate is not settled")
        return self.learning_rate

    @property
    def decay(self) -> float:
        """The weight decay, likewise."""
        if self.weight_decay is None:
            raise ValueError("the weight decay is not settled")
        return self.weight_decay

    @property
    def initial_seed(self) -> int:
        """Decides the adapter's initial weights."""
        return self.seed if self.adapter_seed is None else self.adapter_seed


def settled(options: TrainingOptions, config: AdapterConfig) -> TrainingOptions:
    """The options with the adapter's own learning rate and weight decay where none is given."""
    rate, decay = options.learning_rate, options.weight_decay
    return dataclasses.replace(
        options,
        learning_rate=default_learning_rate(config) if rate is None else rate,
        weight_decay=default_weight_decay(config) if decay is None else decay,
    )


def default_learning_rate(config: AdapterConfig) -> float:
    """Peak learning rate of an adapter.

    Of a pointer twice the others' (500 lines of gsm8k: held-out loss 0.969 with 1e-3, 0.956 with
    2e-3).
    """
    return 2e-3 if config.copies else 1e-3


def default_weight_decay(config: AdapterConfig) -> float:
    """Weight decay of an adapter where none is given.

    Large, since personal data is scarce (SST-2, 6,000 lines: accuracy 0.82 with 0.01, 0.849 with
    4; a pointer on 500 lines of gsm8k: held-out loss 0.969 with 0.1, 0.961 with 1, 0.956 with 4,
    0.980 with 12).
    """
    return 0.1 if config.generative and not config.copies else 4.0


OPTIMIZER_PREFIX = "optimizer."
INITIAL_SHAPE = "initial_shape"


def check_weights(state: bytes) -> None:
    """Refuses a trainer's state whose weights are not numbers to go on with, or to use.

    Raises:
        UnresumableError: one is infinite or not a number.
        BadInputError: ``state`` is damaged.
    """
    for name, array in read_tensors(state, "trainer state").items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UnresumableError(
                f"{name!r} of the adapter is not finite; train a new run with a lower "
                "--learning-rate"
            )


def adapter_weights(state: bytes) -> bytes:
    """``adapter_model.safetensors`` out of a trainer's state: the weights alone.

    Raises:
        BadInputError: ``state`` is damaged.
    """
    tensors = read_tensors(state, "trainer state")
    return write_tensors(
        {name: array for name, array in tensors.items() if not name.startswith(OPTIMIZER_PREFIX)}
    )
