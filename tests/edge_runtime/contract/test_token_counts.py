"""Counts of tokens, as devices and the coordinator may send them to one another."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import RemoteError
from tests.edge_runtime.contract.examples import EXAMPLES

FIELDS = {m.TokenCounts: "counts", m.FormGroup: "token_counts", m.TrainSettings: "token_counts"}


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "counts",
    [np.ones(6, np.int64), np.ones((3, 2), np.int64), np.ones((2, 3), np.int32)],
    ids=["of one kind", "of three kinds", "of another dtype"],
)
def test_counts_that_are_not_of_both_kinds_are_refused(kind, counts):
    message = next(each for each in EXAMPLES if isinstance(each, kind))
    dataclasses.replace(message, **{FIELDS[kind]: np.ones((2, 3), np.int64)})
    object.__setattr__(message := dataclasses.replace(message), FIELDS[kind], counts)
    with pytest.raises(RemoteError):
        decode([bytes(frame) for frame in encode(message)])
