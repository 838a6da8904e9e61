"""Padding never enters a model, so its id need not be in the vocabulary; but is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.families import FAMILIES, input_specs
from export.checkpoint.padding import mend_padding
from tests.models import VOCAB_SIZE, config_of

FILE = Path("config.json")


@pytest.mark.parametrize(
    ("family", "pad"), [("bart", VOCAB_SIZE), ("llama", VOCAB_SIZE), ("llama", -VOCAB_SIZE - 1)]
)
def test_padding_beyond_the_vocabulary_is_replaced_and_said(family, pad):
    config = config_of(family)
    config.pad_token_id = pad
    (note,) = mend_padding(FILE, config, FAMILIES[family])
    assert f"pad_token_id {pad} has no embedding" in note
    assert config.pad_token_id == 0
    assert all(spec.pad == 0 for spec in input_specs(config, FAMILIES[family], "classification"))


@pytest.mark.parametrize("pad", [0, VOCAB_SIZE - 1, None, -1])
def test_padding_that_the_model_can_have_is_left_alone(pad):
    config = config_of("llama")
    config.pad_token_id = pad
    assert mend_padding(FILE, config, FAMILIES["llama"]) == ()
    assert config.pad_token_id == pad


@pytest.mark.parametrize("pad", [VOCAB_SIZE, None, -1])
def test_padding_from_which_positions_count_is_refused(pad):
    config = config_of("roberta")
    config.pad_token_id = pad
    with pytest.raises(BadInputError, match=f"pad_token_id is {pad}.*positions"):
        mend_padding(FILE, config, FAMILIES["roberta"])
