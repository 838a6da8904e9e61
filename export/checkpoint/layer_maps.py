"""Names of the linear maps of a layer in each model family."""

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


def _attention(prefix: str, names: str) -> Attention:
    q, k, v, out = (prefix + name for name in names.split())
    return q, k, v, out


BERT = LayerMaps(
    attention=_attention("attention.", "self.query* self.key* self.value* output.dense"),
    feed_forward=("intermediate.dense", "output.dense"),
)
DISTILBERT = LayerMaps(
    attention=_attention("attention.", "q_lin k_lin v_lin out_lin"),
    feed_forward=("ffn.lin1", "ffn.lin2"),
)
MODERNBERT = LayerMaps(
    attention=_attention("attn.", "Wqkv Wqkv Wqkv Wo"), feed_forward=("mlp.Wi", "mlp.Wo")
)
GPT2 = LayerMaps(
    attention=_attention("attn.", "c_attn c_attn c_attn c_proj"),
    feed_forward=("mlp.c_fc", "mlp.c_proj"),
)
LLAMA = LayerMaps(
    attention=_attention("self_attn.", "q_proj k_proj v_proj o_proj"),
    feed_forward=("mlp.gate_proj", "mlp.down_proj"),
)
PHI = LayerMaps(
    attention=_attention("self_attn.", "q_proj k_proj v_proj dense"),
    feed_forward=("mlp.fc1", "mlp.fc2"),
)
BART = LayerMaps(
    attention=_attention("self_attn.", "q_proj k_proj v_proj out_proj"),
    cross=_attention("encoder_attn.", "q_proj k_proj v_proj out_proj"),
    feed_forward=("fc1", "fc2"),
)
T5 = LayerMaps(
    attention=_attention("layer.*.SelfAttention.", "q k v o"),
    cross=_attention("layer.*.EncDecAttention.", "q k v o"),
    feed_forward=("layer.*.DenseReluDense.wi*", "layer.*.DenseReluDense.wo"),
)
