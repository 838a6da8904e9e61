"""The Parallel Adapter as one PyTorch module: what is trained, saved and written as ONNX.

Everything else is compared with it: the engine that trains it on cached hidden states, and
the graph of :mod:`export.adapter.graph`. Names and shapes of its parameters are those of
``adapter_model.safetensors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention_context import AttentionContext, Memory
from .comparison import compare
from .pointer import Pointer, SummedReads
from .side_network import Linear, SideBlock, SideNetwork, fuse, normalize

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig


class ParallelAdapter(nn.Module):
    """A side network along a frozen backbone, and the head that reads its last state.

    The backbone's hidden states are its input; nothing is propagated back into them. An
    encoder-decoder has a side network along each of its stacks, and the blocks of the
    decoder's attend to the last state of the encoder's.

    All parameters are zero until they are loaded (``load_state_dict``) or initialized
    (:func:`.parameters.initialize`).

    Shapes: L hidden states, B samples, T tokens, S segments, d backbone width, w adapter
    width, C outputs.
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
            features (B, T, d) that the frozen head reads.
        """
        if self.config.generative:
            places = torch.arange(mask_BT.numel())
            features, _ = self.language(hidden_LBTd, mask_BT, places, encoder)
            return features.view(*mask_BT.shape, -1)
        state_BTw = self.side_state(hidden_LBTd, mask_BT, encoder)
        outputs = self.pooled_outputs(hidden_LBTd, mask_BT, second_starts_B, state_BTw)
        if self.config.task == "regression":
            outputs = outputs.double() * self.config.target_scale + self.config.target_mean
        return outputs

    def language(
        self,
        hidden_LBTd: Tensor,
        mask_BT: Tensor,
        places_N: Tensor,
        encoder: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes what a language model's logits are made of, for some tokens.

        Args:
            hidden_LBTd: as in :meth:`forward`.
            mask_BT: likewise.
            places_N: where these tokens are among the B * T, ascending.
            encoder: likewise.

        Returns:
            h_L + U(norm(s_L)), the features that the frozen head reads, (N, d); and with
            ``config.copies`` what is added to the logits of the context's tokens, (N, T).
        """
        if self.config.reads_each_token_alone:
            state = self._last_state(hidden_LBTd, AttentionContext.alone(mask_BT.shape, places_N))
        else:
            padded = self.side_state(hidden_LBTd, mask_BT, encoder)
            state = padded.flatten(0, 1).index_select(0, places_N)
        last = hidden_LBTd[-1].flatten(0, 1).index_select(0, places_N)
        if not self.config.copies:
            return self.features(last, state), None
        return self.features(last, state), self.pointer(hidden_LBTd, normalize(state), places_N)

    def features(self, last: Tensor, state: Tensor) -> Tensor:
        """Computes h_L + U(norm(s_L)), (N, d), from h_L and s_L of some tokens."""
        return last + normalize(state) * self.config.up_scale @ self.up.weight

    def side_state(
        self,
        hidden_LBTd: Tensor,
        mask_BT: Tensor,
        encoder: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Computes s_L of the stack that outputs, (B, T, w); 0 on padding."""
        memory = None
        if self.config.encoder_layers and encoder is not None:
            encoder_hidden, encoder_mask = encoder
            context = AttentionContext.of(encoder_mask.bool(), encoder_hidden.dtype)
            memory = Memory(normalize(self.encoder(encoder_hidden, context)), context)
        causal = self.config.causal
        context = AttentionContext.of(mask_BT.bool(), hidden_LBTd.dtype, causal, memory)
        return context.pad(self._last_state(hidden_LBTd, context))

    def _last_state(self, hidden_LBTd: Tensor, context: AttentionContext) -> Tensor:
        """s_L of the context's tokens, (N, w)."""
        if self.config.encoder_layers:
            state: Tensor = self.decoder(hidden_LBTd, context)
            return state
        if not self.config.copies:
            return fuse(self.down, self.gate, self.blocks, hidden_LBTd, context)
        state = self.down(normalize(context.pack(hidden_LBTd)))
        for block in self.blocks:
            state = block(state, context)
        return state

    def pooled_outputs(
        self,
        hidden_LBTd: Tensor,
        mask_BT: Tensor,
        second_starts_B: Tensor | None,
        state_BTw: Tensor,
    ) -> Tensor:
        """Computes logits, or values in standard deviations from the targets' mean, (B, C).

        out = h_L + U(norm(s_L)); mean over each segment; norm; linear. U is linear, so it is
        applied after the mean: the same result from B rows in place of B * T. Two segments u
        and v are read as (|u - v|, u * v), and beside them the comparison of their tokens in
        several of the backbone's layers: pooled segments alone say too little of what meets
        what. Without u and v themselves (InferSent has them: Conneau et al., 2017) the head
        learns less by heart; the order of the segments is in the comparison.
        """
        starts_B = second_starts_B if self.config.pair else None
        pool_BST = pooling_weights(mask_BT.bool(), starts_B, state_BTw.dtype)
        side_BSw = torch.bmm(pool_BST, normalize(state_BTw))
        embedding_BSd = normalize(pool_BST @ hidden_LBTd[-1] + side_BSw @ self.up.weight)
        if not self.config.pair:
            return self._head(embedding_BSd[:, 0])
        u, v = embedding_BSd.unbind(1)
        outputs = self._head(torch.cat(((u - v).abs(), u * v), 1))
        found = compare([hidden_LBTd[layer] for layer in self.config.compared_layers], pool_BST)
        outputs += self.comparison(found * self.config.comparison_scale)
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
