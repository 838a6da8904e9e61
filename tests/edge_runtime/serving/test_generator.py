import dataclasses

import numpy as np
import pytest

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.cache_format.encoding import encode
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.generation import GenerationOptions, Sequences
from edge_runtime.contract.messages import SetUpGeneration, States
from edge_runtime.serving.generator import Generator, LanguageModel

D = V = 4
REQUEST = SetUpGeneration(
    options=GenerationOptions(), max_sequences=3, max_rows={"encoder": 9, "decoder": 9}
)


class SumOfAll:
    """Logits are the sum of all rows of all layers, but for padding's."""

    def __init__(self) -> None:
        self.batches = []

    def last_logits(self, batch):
        self.batches.append(batch)
        logits = batch.hidden.sum((0, 2))
        if batch.encoder_hidden is not None:
            logits = logits + batch.encoder_hidden.sum((0, 2))
        return logits


def config(layers=(0, 2), encoder_layers=0, kind="attention") -> AdapterConfig:
    task = "seq2seq" if encoder_layers else "causal-lm"
    return AdapterConfig(
        kind=kind,
        hidden_size=D,
        reduction=2,
        layers=layers,
        encoder_layers=encoder_layers,
        task=task,
        num_outputs=V,
    )


def generator(**shape) -> tuple[Generator, SumOfAll]:
    adapter = SumOfAll()
    return Generator(REQUEST, LanguageModel(config(**shape), adapter)), adapter


def states(number, layers, lines, known, lengths, token=0, tokens=None, **changes) -> States:
    """Rows that point at ``token``; ``tokens`` are the ids of the new rows."""
    rows = np.zeros((len(layers), sum(lengths), D), np.float32)
    rows[..., token] = 1
    known = known if isinstance(known, dict) else {"decoder": known}
    sequences = Sequences(
        lines=np.array(lines, np.int32),
        known={stream: np.array(each, np.int32) for stream, each in known.items()},
        tokens=None if tokens is None else np.array(tokens, np.int32),
    )
    made = States(
        number=number,
        keys=np.zeros((len(lines), 32), np.uint8),
        lengths=np.array(lengths, np.int32),
        layers=tuple(layers),
        encoded=encode(rows, "fp32"),
        numerics="x",
        sequences=sequences,
    )
    return dataclasses.replace(made, **changes)


def test_a_token_is_chosen_when_all_layers_are_here():
    found, adapter = generator()
    assert found.take(states(5, [2], [1, 0], [0, 0], [1, 3], token=2)) is None
    chosen = found.take(states(5, [0], [1, 0], [0, 0], [1, 3], token=2))
    assert chosen is not None
    assert (chosen.number, chosen.lines.tolist(), chosen.tokens.tolist()) == (5, [1, 0], [2, 2])
    (batch,) = adapter.batches
    assert batch.hidden.shape == (2, 2, 3, D)
    assert batch.lengths.tolist() == [1, 3]
    assert batch.hidden[:, 0, 1:].sum() == 0


def test_later_steps_bring_new_rows_only():
    found, adapter = generator()
    found.take(states(0, [0, 2], [1, 0], [0, 0], [1, 3]))
    chosen = found.take(states(1, [0, 2], [0], [3], [1], token=3))
    assert chosen is not None
    assert chosen.tokens.tolist() == [0]  # three old rows outweigh the new one
    assert adapter.batches[1].lengths.tolist() == [4]
    assert adapter.batches[1].hidden[0, 0, :, 3].tolist() == [0, 0, 0, 1]


def test_an_encoder_sends_once():
    found, adapter = generator(layers=(1, 2, 3), encoder_layers=1)
    nothing = {"encoder": [0], "decoder": [0]}
    assert found.take(states(0, [2, 3], [0], nothing, [1])) is None
    assert found.take(states(0, [1], [0], nothing, [4])) is not None
    known = {"encoder": [4], "decoder": [1]}
    assert found.take(states(1, [2, 3], [0], known, [1])) is not None
    assert adapter.batches[1].encoder_lengths.tolist() == [4]
    assert adapter.batches[1].lengths.tolist() == [2]


def test_released_sequences_make_room():
    found, _ = generator()
    for line in range(3):
        found.take(states(line, [0, 2], [line], [0], [1]))
    found.release(np.array([1], np.int32))
    found.take(states(9, [0, 2], [7], [0], [1]))
    with pytest.raises(RemoteError, match="more than 3 sequences"):
        found.take(states(10, [0, 2], [8], [0], [1]))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (states(1, [0, 2], [0], [2], [1]), "2 rows of 'hidden.0' of sequence 0 should be here"),
        (states(1, [1], [0], [1], [1]), "does not read hidden states"),
        (states(1, [], [0], [1], [1]), "does not read hidden states"),
        (states(1, [0], [0], [1], [1], sequences=None), "belong to no sequence"),
        (states(1, [0], [0], {"encoder": [1]}, [1]), "not of the adapter's sequences"),
        (states(1, [0], [0], [1], [1], encoded=np.zeros((1, 1, 8), np.uint8)), "float32 rows"),
        (states(1, [0], [0], [9], [1]), "should be here"),
    ],
)
def test_states_that_do_not_go_on_are_refused(bad, said):
    found, _ = generator()
    found.take(states(0, [0, 2], [0], [0], [1]))
    with pytest.raises(RemoteError, match=said):
        found.take(bad)


def test_the_same_states_twice_are_refused():
    found, _ = generator()
    found.take(states(0, [0], [0], [0], [1]))
    with pytest.raises(RemoteError, match="came twice"):
        found.take(states(0, [0], [0], [1], [1]))
    with pytest.raises(RemoteError, match="of other sequences"):
        found.take(states(0, [2], [1], [0], [1]))


def test_steps_that_never_come_to_an_end_are_bounded():
    found, _ = generator()
    for number in range(3):
        found.take(states(number, [0], [number], [0], [1]))
    with pytest.raises(RemoteError, match="more than 3 steps"):
        found.take(states(3, [2], [0], [0], [1]))


def test_tokens_come_to_the_adapter_that_reads_them_in_order_and_padded():
    found, adapter = generator(kind="pointer")
    told = {"tokens": [1, 2, 3, 0]}
    assert found.take(states(0, [2], [1, 0], [0, 0], [1, 3], **told)) is None
    assert found.take(states(0, [0], [1, 0], [0, 0], [1, 3], **told)) is not None
    found.take(states(1, [0, 2], [0, 1], [3, 1], [1, 1], tokens=[2, 3]))
    first, second = (batch.tokens for batch in adapter.batches)
    assert (first.tolist(), first.dtype) == ([[1, 0, 0], [2, 3, 0]], np.int64)
    assert second.tolist() == [[2, 3, 0, 2], [1, 3, 0, 0]]


def test_released_sequences_leave_no_tokens():
    found, adapter = generator(kind="pointer")
    found.take(states(0, [0, 2], [0], [0], [2], tokens=[1, 2]))
    found.release(np.array([0], np.int32))
    found.take(states(1, [0, 2], [0], [0], [1], tokens=[3]))
    assert adapter.batches[1].tokens.tolist() == [[3]]


def test_other_adapters_get_no_tokens():
    found, adapter = generator()
    found.take(states(0, [0, 2], [0], [0], [2]))
    (batch,) = adapter.batches
    assert batch.tokens is None


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (states(1, [0, 2], [0], [1], [1]), "step 1 came without its tokens"),
        (states(1, [0, 2], [0], [1], [1], tokens=[]), "0 rows of 'tokens' for 1 tokens"),
        (states(1, [0, 2], [0], [1], [1], tokens=[1, 2]), "2 rows of 'tokens' for 1 tokens"),
        (states(1, [0, 2], [0], [1], [1], tokens=[V]), "not of the adapter's vocabulary"),
        (states(1, [0, 2], [0], [2], [1], tokens=[1]), "2 rows of 'tokens' of sequence 0"),
    ],
    ids=["none", "too few", "too many", "unknown", "gap"],
)
def test_an_adapter_that_reads_tokens_takes_no_states_without_the_right_ones(bad, said):
    found, _ = generator(kind="pointer")
    found.take(states(0, [0, 2], [0], [0], [1], tokens=[1]))
    with pytest.raises(RemoteError, match=said):
        found.take(bad)


def test_stages_that_tell_of_different_tokens_are_refused():
    found, _ = generator(kind="pointer")
    found.take(states(0, [0], [0], [0], [2], tokens=[1, 2]))
    with pytest.raises(RemoteError, match="states of step 0 came with other tokens"):
        found.take(states(0, [2], [0], [0], [2], tokens=[1, 3]))
