"""Shapes of adapters: what follows from the kind, and what cannot be."""

import pytest

from edge_runtime.contract.adapter import AdapterConfig, AdapterKind


def of_decoder(kind: AdapterKind, layers: int = 6) -> AdapterConfig:
    return AdapterConfig(
        kind=kind,
        hidden_size=64,
        layers=tuple(range(layers)),
        causal=True,
        task="causal-lm",
        num_outputs=512,
    )


@pytest.mark.parametrize(
    ("layers", "read"),
    [(1, (0,)), (2, (0, 1)), (4, (0, 1, 2, 3)), (7, (0, 2, 4, 6)), (31, (0, 10, 20, 30))],
)
def test_a_pointer_recognizes_tokens_by_few_layers_up_to_the_last(
    layers: int, read: tuple[int, ...]
) -> None:
    assert of_decoder("pointer", layers).pointer_layers == read
    assert of_decoder("attention", layers).pointer_layers == ()


def test_a_pointers_blocks_are_as_many_however_many_layers_it_reads() -> None:
    for layers in (1, 6, 31):
        shape = of_decoder("pointer", layers)
        (stack,) = shape.stacks
        assert (shape.side_blocks(stack), shape.score_heads, shape.copies) == (3, 4, True)
    shape = of_decoder("mlp", 6)
    assert (shape.side_blocks(shape.stacks[0]), shape.score_heads, shape.copies) == (5, 1, False)


def test_only_where_blocks_attend_a_side_state_depends_on_other_tokens() -> None:
    kinds: tuple[AdapterKind, ...] = ("attention", "mlp", "pointer")
    alone = [of_decoder(kind).reads_each_token_alone for kind in kinds]
    assert alone == [False, True, True]
    both = AdapterConfig(
        kind="mlp",
        hidden_size=64,
        layers=(0, 1, 2, 3),
        encoder_layers=2,
        task="seq2seq",
        num_outputs=9,
    )
    assert not both.reads_each_token_alone


@pytest.mark.parametrize(
    ("task", "encoder_layers"),
    [("classification", 0), ("regression", 0), ("seq2seq", 2), ("causal-lm", 2)],
)
def test_a_pointer_is_of_a_decoder_only_language_model(task, encoder_layers) -> None:
    with pytest.raises(ValueError, match=f"kind pointer is of a causal language model, .* {task}"):
        AdapterConfig(
            kind="pointer",
            hidden_size=64,
            layers=(0, 1, 2, 3),
            encoder_layers=encoder_layers,
            task=task,
            num_outputs=1 if task == "regression" else 9,
        )
