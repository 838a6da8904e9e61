"""Hidden states of a batch as they are read, and the mask of its tokens' attention.

Shapes: L layers, B samples, T tokens of the longest, N tokens of all, M of them that something is
computed for, c channels.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from edge_runtime.contract.cache_format.encoding import decode_int8

# Added to the scores of what must not be seen; its exponential is exactly 0.
MASKED = -1e30


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PackedStates:
    """Hidden states of one stack, the samples' tokens one after another.

    Attributes:
        layers: (L, N, d) in the precision that they are kept in, finer or coarser than the
            adapter's, or (L, N, R) uint8 as an int8 cache has them: one layer at a time is
            decoded, since all are the most that a trainer holds.
        lengths: (B,) int64, which add up to N.
    """

    layers: Tensor
    lengths: Tensor

    @classmethod
    def of_padded(cls, hidden_LBTd: Tensor, mask_BT: Tensor) -> PackedStates:
        """Takes the tokens out, which are true in the mask and come before the padding."""
        return cls(hidden_LBTd[:, mask_BT], mask_BT.sum(1))

    def decoded(self, layer: int, dtype: torch.dtype, rows_M: Tensor | None = None) -> Tensor:
        """One layer's states, (N, d), or those of some tokens, (M, d)."""
        states = self.layers[layer]
        if rows_M is not None:
            states = states.index_select(0, rows_M)
        if states.dtype == torch.uint8:
            states = torch.from_numpy(decode_int8(states.numpy()))
        return states.to(dtype)


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
        cls,
        lengths_B: Tensor,
        dtype: torch.dtype,
        causal: bool = False,
        memory: Memory | None = None,
    ) -> AttentionContext:
        """Makes the context of a batch.

        Args:
            lengths_B: tokens of each sample.
            dtype: of the scores.
            causal: a token attends to those up to its own place only.
            memory: the encoder's tokens.
        """
        mask_BT = token_mask(lengths_B)
        batch, tokens = mask_BT.shape
        visible = mask_BT[:, None, None]
        if causal:
            visible = visible & torch.ones(tokens, tokens, dtype=torch.bool).tril_()
        bias = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, MASKED)
        places = None if bool(mask_BT.all()) else mask_BT.flatten().nonzero()[:, 0]
        return cls((batch, tokens), places, bias, memory)

    @classmethod
    def alone(cls, tokens: int) -> AttentionContext:
        """Makes the context of so many tokens that attend to nothing."""
        return cls((1, tokens), None, torch.empty(0))

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


def token_mask(lengths_B: Tensor) -> Tensor:
    """(B, T) bool: true on tokens, false on padding, which is on the right."""
    longest = int(lengths_B.max()) if len(lengths_B) else 0
    return torch.arange(longest) < lengths_B[:, None]
