"""How each model family names the linear maps of a layer."""

from __future__ import annotations

import dataclasses

Attention = tuple[str, str, str, str]
"""Queries, keys, values and output; the first three alike where one map makes them all."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerMaps:
    """Names inside a layer, as shell patterns; of several matches the first one counts.

    Attributes:
        attention: of the layer's own sequence.
        feed_forward: what reads the residual stream, of gated ones what is activated, and
            what writes to it. Where one map makes gate and values, the gate is first.
        cross: attention of a decoder's layer to the encoder.
    """

    attention: Attention
    feed_forward: tuple[str, str]
    cross: Attention | None = None


_SELF = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_CROSS = ("encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj")

BERT = LayerMaps(
    attention=(
        "attention.self.query*",
        "attention.self.key*",
        "attention.self.value*",
        "attention.output.dense",
    ),
    feed_forward=("intermediate.dense", "output.dense"),
)
DISTILBERT = LayerMaps(
    attention=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    feed_forward=("ffn.lin1", "ffn.lin2"),
)
MODERNBERT = LayerMaps(
    attention=("attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo"), feed_forward=("mlp.Wi", "mlp.Wo")
)
GPT2 = LayerMaps(
    attention=("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj"),
    feed_forward=("mlp.c_fc", "mlp.c_proj"),
)
LLAMA = LayerMaps(
    attention=(*_SELF, "self_attn.o_proj"), feed_forward=("mlp.gate_proj", "mlp.down_proj")
)
PHI = LayerMaps(attention=(*_SELF, "self_attn.dense"), feed_forward=("mlp.fc1", "mlp.fc2"))
BART = LayerMaps(
    attention=(*_SELF, "self_attn.out_proj"),
    cross=(*_CROSS, "encoder_attn.out_proj"),
    feed_forward=("fc1", "fc2"),
)
T5 = LayerMaps(
    attention=(
        "layer.*.SelfAttention.q",
        "layer.*.SelfAttention.k",
        "layer.*.SelfAttention.v",
        "layer.*.SelfAttention.o",
    ),
    cross=(
        "layer.*.EncDecAttention.q",
        "layer.*.EncDecAttention.k",
        "layer.*.EncDecAttention.v",
        "layer.*.EncDecAttention.o",
    ),
    feed_forward=("layer.*.DenseReluDense.wi*", "layer.*.DenseReluDense.wo"),
)
