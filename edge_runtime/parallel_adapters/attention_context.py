"""Packs the tokens of a batch, and masks those that a token must not attend to.

Shapes: B samples, T tokens of the longest, N tokens that are no padding, c channels.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

# Added to the scores of what must not be seen; its exponential is exactly 0.
MASKED = -1e30


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """The encoder's output that a decoder's side blocks attend to.

    Attributes:
        normed: the encoder's normalized last side state, (N, w) for its own N tokens.
        context: of the encoder's tokens.
    """

    normed: Tensor
    context: AttentionContext


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class AttentionContext:
    """Layout of a batch's tokens, and the mask of their attention.

    Only attention needs samples as rows. All else is computed for the N tokens alone, which
    in batches of unequal lengths are few: a third of B * T on SST-2.

    Attributes:
        shape: (B, T).
        places: (N,) indices of the tokens among B * T places; None where there is no padding.
        bias: what is added to the scores, (B, 1, 1, T), or (B, 1, T, T) if causal.
        memory: the encoder's tokens; None where there is no encoder.
    """

    shape: tuple[int, int]
    places: Tensor | None
    bias: Tensor
    memory: Memory | None = None

    @classmethod
    def of(
        cls, mask_BT: Tensor, dtype: torch.dtype, causal: bool = False, memory: Memory | None = None
    ) -> AttentionContext:
        """Makes the context of a batch.

        Args:
            mask_BT: true on tokens, false on padding.
            dtype: of the scores.
            causal: a token attends to those up to its own place only.
            memory: the encoder's tokens.
        """
        batch, tokens = mask_BT.shape
        visible = mask_BT[:, None, None]
        if causal:
            visible = visible & torch.ones(tokens, tokens, dtype=torch.bool).tril_()
        bias = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, MASKED)
        places = None if bool(mask_BT.all()) else mask_BT.flatten().nonzero()[:, 0]
        return cls((batch, tokens), places, bias, memory)

    @classmethod
    def alone(cls, shape: tuple[int, ...], places_N: Tensor) -> AttentionContext:
        """Makes the context of some tokens that attend to nothing."""
        batch, tokens = shape
        return cls((batch, tokens), places_N, torch.empty(0))

    def pack(self, x_BTc: Tensor) -> Tensor:
        """Takes the tokens out of (..., B, T, c): (..., N, c)."""
        x = x_BTc.flatten(-3, -2)
        return x if self.places is None else x.index_select(-2, self.places)

    def pad(self, x_Nc: Tensor) -> Tensor:
        """Puts the tokens back in their places, (B, T, c), with zeros as padding."""
        if self.places is not None:
            batch, tokens = self.shape
            empty = x_Nc.new_zeros(batch * tokens, x_Nc.shape[-1])
            x_Nc = empty.index_copy(0, self.places, x_Nc)
        return x_Nc.view(*self.shape, -1)
