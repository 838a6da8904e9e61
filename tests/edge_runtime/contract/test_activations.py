"""Estimates of memory by length: what was measured once, and how they grow."""

from edge_runtime.contract.activations import answering_bytes, block_bytes, training_bytes
from edge_runtime.contract.adapter import AdapterConfig

CAUSAL = AdapterConfig(
    hidden_size=64,
    reduction=8,
    layers=tuple(range(6)),
    causal=True,
    task="causal-lm",
    num_outputs=512,
)


def llama(tokens: int) -> int:
    return int(block_bytes({"decoder": tokens}, hidden_size=64, num_heads=8)["decoder"])


def test_estimates_are_not_below_what_was_measured() -> None:
    # Peak resident bytes of a block of stories260K, of a step and of answers, one sample each.
    assert llama(512) > 32.1e6
    assert llama(3000) > 737.1e6
    assert training_bytes(CAUSAL, {"decoder": 4000}) > 116.2e6
    assert answering_bytes(CAUSAL, {"decoder": 3000}) > 222.0e6


def test_scores_make_memory_grow_with_the_square_of_the_length() -> None:
    assert 3.9 < llama(8000) / llama(4000) < 4.0


def test_a_decoder_sees_its_encoder_and_the_encoder_only_itself() -> None:
    shape = {"hidden_size": 64, "num_heads": 8}
    alone = block_bytes({"encoder": 500, "decoder": 1}, **shape)
    longer = block_bytes({"encoder": 500, "decoder": 50}, **shape)
    assert alone["encoder"] == longer["encoder"]
    assert longer["decoder"] > 10 * alone["decoder"]
