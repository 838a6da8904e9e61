"""How the Parallel Adapters are shaped and trained; saved as ``adapter_config.json``."""

from __future__ import annotations

import dataclasses
from typing import Literal

from .ids import Sha256
from .manifest import Task

AdapterKind = Literal["attention", "mlp"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Shape of the side network and its head.

    Attributes:
        kind: what the side block A_i is.
        hidden_size: backbone width d.
        reduction: r; the adapter width is ``hidden_size // reduction``.
        num_heads: attention heads of a side block.
        layers: indices of the backbone hidden states that are read, ascending; the last
            one is always the backbone's last. Index 0 is the embeddings block's output.
        task: decides head and loss.
        num_outputs: classes, or 1 for regression.
        pair: the data has ``text_pair``; each segment is pooled apart.
        base_model: model id of the backbone.
        bundle_digest: the bundle that the adapter belongs to.
        labels: class names in output order; empty for regression.
    """

    kind: AdapterKind = "attention"
    hidden_size: int
    reduction: int = 8
    num_heads: int = 4
    layers: tuple[int, ...]
    task: Task
    num_outputs: int
    pair: bool = False
    base_model: str = ""
    bundle_digest: Sha256 = Sha256("")
    labels: tuple[str, ...] = ()
    peft_type: Literal["PARALLEL_ADAPTER"] = "PARALLEL_ADAPTER"

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.reduction, self.num_heads, self.num_outputs) < 1:
            raise ValueError("hidden_size, reduction, num_heads and num_outputs must be positive")
        if self.hidden_size // self.reduction < self.num_heads:
            raise ValueError(
                f"reduction {self.reduction} leaves {self.hidden_size // self.reduction} channels, "
                f"fewer than the {self.num_heads} heads"
            )
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError("layers must be ascending, distinct and not negative")

    @property
    def width(self) -> int:
        """Adapter width w."""
        return self.hidden_size // self.reduction // self.num_heads * self.num_heads


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Everything that decides the result of training, apart from the data.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples of a global batch, and the number S of logical shards.
        learning_rate: peak of the schedule (linear warm-up, then linear decay to 0).
        warmup_fraction: share of all steps that warm up.
        weight_decay: AdamW's, on matrices only.
        max_gradient_norm: clipping after the division by the global count; 0 is off.
        seed: decides the adapter's initial weights and the order of samples.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_fraction: float = 0.06
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError("epochs must not be negative")
        if not 1 <= self.batch_size <= 4096:
            raise ValueError("batch_size must be between 1 and 4096")
        if not self.learning_rate > 0:
            raise ValueError("learning_rate must be positive")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError("warmup_fraction must be between 0 and 1")
        if self.weight_decay < 0 or self.max_gradient_norm < 0:
            raise ValueError("weight_decay and max_gradient_norm must not be negative")
