"""Lines that are cut: to a number of tokens, or only those that are far longer than the others."""

import pytest

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import prepare, run_settings
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import UsageError

SHORT = [{"text": text, "label": label} for text, label in zip("abcd" * 4, "yn" * 8, strict=True)]
LONG = {"text": "a " * 30, "label": "y"}


def prepared(model, data, max_length, task="classification"):
    choice, options = AdapterChoice(reduction=2), TrainingOptions(batch_size=4)
    return prepare(model, data, None, task, choice, options, None, max_length=max_length)


def test_a_number_cuts_every_longer_line(model, write):
    found = prepared(model, write("train", [*SHORT, LONG]), 4)
    assert found.tables["train"].samples.lengths.max() == 4
    assert [place.rpartition(" ")[2] for place in found.truncated] == ["17"]
    assert run_settings(found, None, "fp16").max_length == 4


def test_auto_cuts_the_few_that_are_far_longer_and_names_them(model, write):
    found = prepared(model, write("train", [*SHORT, LONG]), "auto")
    assert found.max_length == 4
    (note,) = (note for note in found.notes if "cut" in note)
    assert note.startswith("1 of 17 lines is longer than 4 tokens and was cut: ")
    assert note.endswith("train, line 17")


def test_auto_cuts_nothing_where_no_line_is_far_longer(model, write):
    found = prepared(model, write("train", SHORT), "auto")
    assert (found.max_length, found.truncated) == (None, ())


@pytest.mark.parametrize("wrong", [0, 3, 9, 6502])
def test_what_the_model_does_not_take_is_refused(model, write, wrong):
    with pytest.raises(UsageError, match=rf"--max-length {wrong}: give 4 to 8 tokens"):
        prepared(model, write("train", SHORT), wrong)
