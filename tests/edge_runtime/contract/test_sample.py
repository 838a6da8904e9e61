import dataclasses

import numpy as np
import pytest

from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.sample import Ragged, Samples, sample_keys

DIGEST = Sha256("ab" * 32)
ROWS = [[101, 7, 102], [], [101, 102], [5] * 9]


def sample_key(digest: Sha256, streams: dict[str, list[int]]) -> bytes:
    inputs = {name: Ragged.from_rows([ids]) for name, ids in streams.items()}
    return sample_keys(digest, inputs).tobytes()


def some_samples() -> Samples:
    inputs = {
        "input_ids": Ragged.from_rows(ROWS),
        "token_type_ids": Ragged.from_rows([[0] * len(row) for row in ROWS]),
    }
    return Samples(
        inputs=inputs,
        second_starts=np.array([0, 0, 1, 4], np.int32),
        keys=sample_keys(DIGEST, inputs),
    )


def test_rows_come_back_as_they_went_in() -> None:
    ragged = Ragged.from_rows(ROWS)
    assert [ragged[i].tolist() for i in range(len(ragged))] == ROWS
    assert ragged.lengths.tolist() == [3, 0, 2, 9]


def test_taking_keeps_order_and_repeats() -> None:
    taken = some_samples().take([3, 0, 3])
    assert [taken.inputs["input_ids"][i].tolist() for i in range(3)] == [ROWS[3], ROWS[0], ROWS[3]]
    assert taken.second_starts.tolist() == [4, 0, 4]
    assert (taken.keys[1] == some_samples().keys[0]).all()


def test_nothing_can_be_taken() -> None:
    assert len(some_samples().take([])) == 0


def test_keys_of_many_are_the_keys_of_each() -> None:
    samples = some_samples()
    for i, row in enumerate(ROWS):
        streams = {"token_type_ids": [0] * len(row), "input_ids": row}
        assert sample_key(DIGEST, streams) == samples.keys[i].tobytes()


@pytest.mark.parametrize(
    "other",
    [
        (DIGEST, {"ids": [1, 2], "types": [0, 1]}),
        (DIGEST, {"ids": [1], "types": [0, 0]}),
        (DIGEST, {"ids": [1, 2], "kinds": [0, 0]}),
        (DIGEST, {"ids": [1, 2, 0], "types": [0]}),
        (DIGEST, {"ids": [1, 2]}),
        (Sha256("cd" * 32), {"ids": [1, 2], "types": [0, 0]}),
    ],
)
def test_any_other_input_or_backbone_has_another_key(other: tuple[Sha256, dict]) -> None:
    assert sample_key(*other) != sample_key(DIGEST, {"ids": [1, 2], "types": [0, 0]})


def test_the_key_of_a_sample_is_pinned() -> None:
    assert sample_key(DIGEST, {"ids": [1, 2]}).hex()[:16] == "7d75ad93283b50aa"


def test_offsets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="rise from 0 to 3"):
        Ragged(values=np.zeros(3, np.int32), offsets=np.array([0, 4, 3]))


def test_a_second_segment_starts_inside_of_its_sample() -> None:
    samples = some_samples()
    with pytest.raises(ValueError, match="second_starts"):
        Samples(
            inputs=samples.inputs,
            second_starts=np.array([4, 0, 0, 0], np.int32),
            keys=samples.keys,
        )


def test_the_ids_of_a_sequence_are_those_of_its_only_input() -> None:
    samples = some_samples()
    with pytest.raises(ValueError, match="encoder has 2 token inputs instead of one"):
        samples.tokens_of("encoder")
    with pytest.raises(ValueError, match="decoder has 0 token inputs"):
        samples.tokens_of("decoder")
    written = dataclasses.replace(samples, streams={"input_ids": "decoder"})
    assert written.tokens_of("decoder") is samples.inputs["input_ids"]
