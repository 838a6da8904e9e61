"""What settings have come to, as a device may say it."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.messages import SettingsTrained
from tests.edge_runtime.contract.examples import EXAMPLES

TRAINED = next(each for each in EXAMPLES if isinstance(each, SettingsTrained))


def received(field: str, value: Any) -> object:
    """The message as the other side gets it from a sender that checks nothing."""
    message = dataclasses.replace(TRAINED)
    object.__setattr__(message, field, value)
    return decode([bytes(frame) for frame in encode(message)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("losses", np.array([0.5, np.nan])),
        ("losses", np.array([-0.5, 0.5])),
        ("losses", np.array([-np.inf, 0.5])),
        ("losses", np.array([0.5])),
        ("losses", np.array([0.5, 0.5], np.float32)),
        ("correct", np.array([-1, 3])),
        ("correct", np.array([1 << 62, 3])),
        ("correct", np.array([1, 2, 3])),
        ("correct", np.array([0.5, 0.5])),
        ("seconds", np.array([np.inf, 1.0])),
        ("seconds", np.array([-1.0, 1.0])),
        ("sums", TRAINED.sums[:1]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(field: str, value: Any) -> None:
    with pytest.raises(RemoteError) as refused:
        received(field, value)
    assert len(str(refused.value).splitlines()) == 1


def test_one_that_diverges_has_an_infinite_loss() -> None:
    assert received("losses", np.array([np.inf, 0.5])) is not None
