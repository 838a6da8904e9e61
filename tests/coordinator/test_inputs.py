import pytest

from coordinator.inputs import parse_layers
from edge_runtime.contract.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", (0, 1, 2, 3, 4, 5, 6)),
        ("every:1", (0, 1, 2, 3, 4, 5, 6)),
        ("every:2", (0, 2, 4, 6)),
        ("every:4", (2, 6)),
        ("every:9", (6,)),
        ("6", (6,)),
        ("3,1", (1, 3, 6)),
        ("1, 1 ,6", (1, 6)),
    ],
)
def test_layers_are_ascending_and_end_with_the_last(text, layers):
    assert parse_layers(text, 6) == layers


@pytest.mark.parametrize("text", ["", "some", "every:", "every:0", "every:-1", "7", "-1", "1,,2"])
def test_layers_that_are_not_there_are_bad_input(text):
    with pytest.raises(BadInputError, match=r"all, every:K, or numbers from 0 to 6"):
        parse_layers(text, 6)
