"""The Parallel Adapter as one PyTorch module: what is trained, saved and written as ONNX.

Everything else is compared with it: the engine that trains it on cached hidden states, and
the graph of :mod:`export.adapter.graph`. Names and shapes of its parameters are those of
``adapter_model.safetensors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention_context import AttentionContext, Memory, PackedStates, token_mask
from .comparison import compare
from .layer_reads import normalize
from .pointer import Pointer, SummedReads
from .side_network import Linear, SideBlock, SideNetwork, fuse

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig


class ParallelAdapter(nn.Module):
    """A side network along a frozen backbone, and the head that reads its last state.

    The backbone's hidden states are its input; nothing is propagated back into them. An
    encoder-decoder has a side network along each of its stacks, and the blocks of the
    decoder's attend to the last state of the encoder's.

    All parameters are zero until they are loaded (``load_state_dict``) or initialized
    (:func:`.parameters.initialize`).

    Shapes: L hidden states, B samples, T tokens of the longest, N of all, M of them that are
    asked for, S segments, d backbone width, w adapter width, C outputs.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        if config.copies:
            (stack,) = config.stacks
            blocks = (SideBlock(config, cross=False) for _ in range(config.side_blocks(stack)))
            self.down: nn.Module = SummedReads(config, stack.layers)
            self.blocks = nn.ModuleList(blocks)
            self.pointer = Pointer(config)
        else:
            *before, last = (SideNetwork(config, stack) for stack in config.stacks)
            if before:
                self.encoder, self.decoder = before[0], last
            else:  # the only one's parameters are saved without a prefix
                self.down, self.gate, self.blocks = last.down, last.gate, last.blocks
        self.up = Linear(config.width, config.hidden_size)
        if not config.generative:
            self.head = Linear(config.head_features, config.num_outputs, bias=True)
        if config.pair:
            self.comparison = Linear(config.comparison_features, config.num_outputs)

    def forward(
        self,
        hidden_LBTd: Tensor,
        mask_BT: Tensor,
        second_starts_B: Tensor | None = None,
        encoder: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Computes what the adapter makes of a backbone's hidden states.

        Args:
            hidden_LBTd: the hidden states ``config.layers`` (of the decoder, if there are
                two stacks); values of padding are finite and have no effect.
            mask_BT: true on tokens, false on padding, which is on the right.
            second_starts_B: index of the first token of the second segment, 0 where there is
                none; with ``config.pair`` only.
            encoder: hidden states and mask of an encoder-decoder's encoder.

        Returns:
            Logits (B, C), or float64 values (B, 1) in the targets' units; for language models the
            features (B, T, d) that the frozen head reads, 0 on padding.
        """
        mask_BT = mask_BT.bool()
        own = PackedStates.of_padded(hidden_LBTd, mask_BT)
        attended = None
        if encoder is not None:
            attended = PackedStates.of_padded(encoder[0], encoder[1].bool())
        state_Nw = self.side_state(own, attended)
        if self.config.generative:
            features_Nd = self.features(hidden_LBTd[-1][mask_BT], normalize(state_Nw))
            padded = features_Nd.new_zeros(*mask_BT.shape, features_Nd.shape[1])
            return padded.masked_scatter(mask_BT[..., None], features_Nd)
        return self.in_units(self.pooled_outputs(own, second_starts_B, state_Nw))

    def in_units(self, outputs: Tensor) -> Tensor:
        """Computes values in the targets' units, float64, of a regression; logits stay."""
        if self.config.task != "regression":
            return outputs
        return outputs.double() * self.config.target_scale + self.config.target_mean

    def side_state(
        self,
        states: PackedStates,
        encoder: PackedStates | None = None,
        rows_M: Tensor | None = None,
    ) -> Tensor:
        """Computes s_L of the stack that outputs, (N, w).

        With ``rows_M``, of these tokens alone, (M, w): with ``config.reads_each_token_alone``.
        """
        config, dtype = self.config, self.up.weight.dtype
        if config.reads_each_token_alone:
            reads: Tensor = self.down(states, rows_M)
            context = AttentionContext.alone(reads.shape[-2])
            if not config.copies:
                return fuse(reads, self.gate, self.blocks, context)
            for block in self.blocks:
                reads = block(reads, context)
            return reads
        memory = None
        if config.encoder_layers and encoder is not None:
            context = AttentionContext.of(encoder.lengths, dtype)
            memory = Memory(normalize(self.encoder(encoder, context)), context)
        context = AttentionContext.of(states.lengths, dtype, config.causal, memory)
        if config.encoder_layers:
            state: Tensor = self.decoder(states, context)
            return state
        return fuse(self.down(states), self.gate, self.blocks, context)

    def features(self, last_Md: Tensor, normed_Mw: Tensor) -> Tensor:
        """Computes h_L + U(norm(s_L)), which the frozen head reads, from h_L and norm(s_L)."""
        return last_Md + normed_Mw * self.config.up_scale @ self.up.weight

    def pooled_outputs(
        self, states: PackedStates, second_starts_B: Tensor | None, state_Nw: Tensor
    ) -> Tensor:
        """Computes logits, or values in standard deviations from the targets' mean, (B, C).

        out = h_L + U(norm(s_L)); mean over each segment; norm; linear. U is linear, so it is
        applied after the mean: the same result from B rows in place of B * T. Two segments u
        and v are read as (|u - v|, u * v), and beside them the comparison of their tokens in
        several of the backbone's layers: pooled segments alone say too little of what meets
        what. Without u and v themselves (InferSent has them: Conneau et al., 2017) the head
        learns less by heart; the order of the segments is in the comparison.
        """
        config, dtype = self.config, state_Nw.dtype
        context = AttentionContext.of(states.lengths, dtype)
        starts_B = second_starts_B if config.pair else None
        pool_BST = pooling_weights(token_mask(states.lengths), starts_B, dtype)
        side_BSw = torch.bmm(pool_BST, context.pad(normalize(state_Nw)))
        last_BSd = torch.bmm(pool_BST, context.pad(states.decoded(-1, dtype)))
        embedding_BSd = normalize(last_BSd + side_BSw @ self.up.weight)
        if not config.pair:
            return self._head(embedding_BSd[:, 0])
        u, v = embedding_BSd.unbind(1)
        outputs = self._head(torch.cat(((u - v).abs(), u * v), 1))
        compared = (context.pad(states.decoded(layer, dtype)) for layer in config.compared_layers)
        found = compare(compared, pool_BST)
        outputs += self.comparison(found * config.comparison_scale)
        return outputs

    def _head(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.head(features * self.config.head_scale)
        return outputs


def pooling_weights(mask_BT: Tensor, second_starts_B: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Computes (B, S, T) weights whose product with token states is each segment's mean.

    Args:
        mask_BT: true on tokens.
        second_starts_B: where the second segment starts, 0 where there is none; ``None``
            pools the whole sample as one segment (S = 1), else S = 2. An absent
            segment's mean is 0.
        dtype: of the weights.
    """
    if second_starts_B is None:
        segments = mask_BT[:, None]
    else:
        starts = torch.where(second_starts_B > 0, second_starts_B, mask_BT.shape[1])
        second = torch.arange(mask_BT.shape[1]) >= starts[:, None]
        segments = torch.stack((mask_BT & ~second, mask_BT & second), 1)
    weights = segments.to(dtype)
    counts: Tensor = weights.sum(-1, keepdim=True)
    return weights.div_(counts.clamp_(min=1))
