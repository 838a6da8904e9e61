import numpy as np
import pytest

from edge_runtime.backbone.row_buffer import RowBuffer
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.generation import Sequences


def sequences(lines, known) -> Sequences:
    return Sequences(lines=np.array(lines, np.int32), known={"decoder": np.array(known, np.int32)})


def rows(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None] * np.ones(2, np.float32)


def append(held: RowBuffer, lines, known, lengths, new) -> None:
    held.append("x", "decoder", sequences(lines, known), np.array(lengths, np.int32), new)


def held() -> RowBuffer:
    """Sequence 4 has rows 1 and 2, sequence 7 has row 3."""
    found = RowBuffer(3, {"decoder": 4})
    append(found, [4, 7], [0, 0], [2, 1], rows(1, 2, 3))
    return found


def test_new_rows_go_behind_their_own_sequence():
    found = held()
    append(found, [7, 4], [1, 2], [1, 1], rows(9, 8))
    assert found.joined("x", [4, 7])[:, 0].tolist() == [1, 2, 8, 3, 9]
    assert found.lengths("x", [7, 4]).tolist() == [2, 3]


def test_sequences_may_stay_away_and_be_dropped():
    found = held()
    append(found, [7], [1], [1], rows(9))
    found.drop([7, 99])
    assert found.joined("x", [4])[:, 0].tolist() == [1, 2]
    with pytest.raises(RemoteError, match="no rows of 'x'"):
        found.joined("x", [4, 7])


def test_what_is_kept_does_not_keep_the_message_alive():
    found, frame = RowBuffer(1, {"decoder": 4}), rows(1, 2)
    append(found, [0], [0], [2], frame)
    assert not np.shares_memory(found.joined("x", [0]), frame)


@pytest.mark.parametrize(
    ("lines", "known", "lengths", "new", "said"),
    [
        ([4], [1], [1], rows(9), "1 rows of 'x' of sequence 4 should be here, but 2 are"),
        ([5], [2], [1], rows(9), "2 rows of 'x' of sequence 5 should be here, but 0 are"),
        ([4], [2], [2], rows(9), "1 rows of 'x' for 2 tokens"),
        ([4], [2], [3], rows(9, 9, 9), "longer than 4 tokens"),
        ([5, 6], [0, 0], [1, 1], rows(9, 9), "more than 3 sequences"),
        ([4], [2], [1], rows(9)[:, :1], "differ from earlier ones"),
        ([4], [2], [1], rows(9).astype(np.int32), "differ from earlier ones"),
    ],
)
def test_what_does_not_go_on_from_here_is_refused(lines, known, lengths, new, said):
    with pytest.raises(RemoteError, match=said):
        append(held(), lines, known, lengths, new)


def test_a_stream_of_unknown_length_is_refused():
    with pytest.raises(RemoteError, match="not said"):
        held().append("y", "encoder", sequences([4], [2]), None, None)


@pytest.mark.parametrize(
    ("lines", "known"),
    [([1, 1], [0, 0]), ([-1], [0]), ([1], [-1]), ([1, 2], [0])],
)
def test_sequences_that_cannot_be_are_refused(lines, known):
    with pytest.raises(ValueError, match="must"):
        sequences(lines, known)
