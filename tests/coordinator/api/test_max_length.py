"""Lines that are cut: to a number of tokens, or only those that are far longer than the others."""

import dataclasses
import re

import numpy as np
import pytest

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import prepare, run_settings
from coordinator.api.max_length import note_on_longest
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Manifest

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


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ([60] * 20 + [300], "line 21 has 300 tokens, all others at most 60; .* lines to 60"),
        ([60] * 30 + [300, 280], "line 31 has 300 tokens, all but 2 at most 60; "),
        ([60] * 20 + [230], None),  # not many times as long
        ([6] * 20 + [200], None),  # costs little
        ([60] * 20 + [300] * 20, None),  # no outlier
        ([300], None),
    ],
)
def test_a_line_that_is_many_times_as_long_as_the_others_is_named(lengths, said):
    parts = (np.array(lengths[:-1], np.int64), np.array(lengths[-1:], np.int64))
    whole = note_on_longest([(np.array(lengths), lambda index: f"line {index + 1}")])
    assert [bool(re.match(said, note)) for note in whole] == [True] if said else not whole
    names = (lambda index: f"line {index + 1}", lambda _: f"line {len(lengths)}")
    assert note_on_longest(list(zip(parts, names, strict=True))) == whole


def test_the_note_is_made_where_nothing_was_said_of_lengths(model, write):
    plain = Manifest.from_json((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(dataclasses.replace(plain, max_length=400).to_json())
    data = write("train", [*SHORT, {"text": "a " * 300, "label": "y"}])
    said = "line 17 has 302 tokens, all others at most 4; "
    assert any(said in note for note in prepared(model, data, None).notes)
    for asked in ("auto", 400):
        assert not any(said in note for note in prepared(model, data, asked).notes)
