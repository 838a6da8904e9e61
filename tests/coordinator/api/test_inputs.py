import dataclasses
from pathlib import Path

import numpy as np
import pytest

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import check_pairs, prepare, run_settings
from coordinator.cluster.observer import NullObserver
from coordinator.data import FieldNames, Texts
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import BadInputError, UsageError
from tests.coordinator.bundles import CLS, SEP

OPTIONS = TrainingOptions(batch_size=4, epochs=2, seed=7)
CHOICE = AdapterChoice(reduction=2)
ANSWER = {"role": "assistant", "content": "c"}
LINES = [{"text": "a b", "label": "no"}, {"text": "c", "label": "yes"}]


class Heard(NullObserver):
    def prepared(self, lines: int, truncated: int) -> None:
        self.read = (lines, truncated)


def prepared(model, data, evaluation=None, task="classification", choice=CHOICE, fields=None):
    return prepare(model, data, evaluation, task, choice, OPTIONS, fields)


def test_labels_decide_the_outputs_and_the_bundle_the_layers(model, write):
    found = prepared(model, write("train", LINES))
    assert found.config.labels == ("no", "yes")
    assert (found.config.num_outputs, found.config.layers, found.config.pair) == (2, (0, 1, 2), 0)
    assert found.config.bundle_digest == found.bundle.manifest.digest
    assert list(found.tables) == ["train"]
    table = found.tables["train"]
    assert table.targets.tolist() == [0, 1]
    assert table.samples.lengths.tolist() == [4, 3]
    assert sorted(table.ranks.tolist()) == [0, 1]
    assert table.shards.max() < OPTIONS.batch_size


def test_evaluation_lines_get_a_table_of_their_own(model, write):
    evaluation = write("eval", [{"text": "d", "label": "yes"}])
    found = prepared(model, write("train", LINES), evaluation)
    assert found.tables["eval"].targets.tolist() == [1]


def test_texts_that_are_too_long_are_counted_over_both_files(model, write):
    long = {"text": "a " * 30, "label": "no"}
    found = prepared(model, write("train", [*LINES, long]), write("eval", [long, LINES[0]]))
    assert [place.rpartition("/")[2] for place in found.truncated] == [
        f"train, line {len(LINES) + 1}",
        "eval, line 1",
    ]
    assert found.tables["train"].samples.lengths.max() == 8


def test_what_is_announced_is_of_the_training_data_alone(model, write):
    long = {"text": "a " * 30, "label": "no"}
    observer = Heard()
    prepared(model, write("train", [*LINES, long]), write("eval", [long] * 9)).announce(observer)
    assert observer.read == (len(LINES) + 1, 1)


def test_regression_targets_are_standardized_by_those_of_training(model, write):
    lines = [{"text": "a", "label": value} for value in (1.0, 2.0, 6.0)]
    config = prepared(model, write("train", lines), task="regression").config
    assert (config.num_outputs, config.labels) == (1, ())
    assert config.target_mean == pytest.approx(3.0)
    assert config.target_scale == pytest.approx(np.std([1.0, 2.0, 6.0]))


def test_equal_regression_targets_are_nothing_to_learn(model, write):
    lines = [{"text": text, "label": 0.1} for text in "abc"]
    with pytest.raises(
        BadInputError,
        match=r"train: field 'label' is 0\.1\d* on every line; regression needs",
    ):
        prepared(model, write("train", lines), task="regression")


def test_timestamps_five_seconds_apart_are_learnt_apart(model, write):
    stamps = [1_764_341_000 + 5 * i for i in range(4)]
    lines = [{"text": text, "label": stamp} for text, stamp in zip("abcd", stamps, strict=True)]
    found = prepared(model, write("train", lines), task="regression")
    assert found.notes == ()
    learnt = found.config.standardized(found.tables["train"].targets)
    assert learnt.tolist() == pytest.approx([-1.342, -0.447, 0.447, 1.342], abs=1e-3)


def test_an_outlier_that_makes_other_values_one_is_said(model, write):
    lines = [{"text": "a", "label": value} for value in (0, 1, 2, 1e30)]
    found = prepared(model, write("train", lines), task="regression")
    assert found.notes[0].startswith("4 different labels are only 2 to the adapter")


def test_pairs_must_be_in_both_files_or_in_neither(model, write):
    pairs = write("train", [{**line, "text_pair": "d"} for line in LINES])
    assert prepared(model, pairs).config.pair
    with pytest.raises(BadInputError, match="text_pair must be in both"):
        prepared(model, pairs, write("eval", LINES))


def test_an_adapter_that_cannot_be_is_bad_input(model, write):
    with pytest.raises(BadInputError, match="adapter: reduction 8 leaves 0 channels"):
        prepared(model, write("train", LINES), choice=AdapterChoice(reduction=8))


def test_an_unknown_label_in_evaluation_is_bad_input(model, write):
    evaluation = write("eval", [{"text": "a", "label": "maybe"}])
    with pytest.raises(BadInputError, match="maybe"):
        prepared(model, write("train", LINES), evaluation)


def test_settings_tell_apart_what_changes_the_result(model, write):
    names = FieldNames(label="intent")
    data = write("train", [{"text": line["text"], "intent": line["label"]} for line in LINES])

    def settings(data=data, evaluation=None):
        found = prepared(model, data, evaluation, fields=names)
        return run_settings(found, names, "int8")

    first = settings()
    assert (first.fields, first.task) == (names, "classification")
    assert (first.epochs, first.batch_size, first.seed, first.cache_dtype) == (2, 4, 7, "int8")
    assert first == settings()
    copy = data.with_name("copy")
    copy.write_bytes(data.read_bytes())
    assert settings(copy) == first, "only the content of the data counts"
    copy.write_bytes(data.read_bytes() + b"\n")
    assert settings(copy).data_sha256 != first.data_sha256
    assert first.eval_sha256 == ""
    assert settings(evaluation=data).eval_sha256 == first.data_sha256


@pytest.mark.parametrize(
    ("trained", "given", "data", "error", "said"),
    [
        (True, False, "test.jsonl", BadInputError, "test.jsonl: .* on pairs.*'second' on every"),
        (False, True, "test.jsonl", BadInputError, "test.jsonl: .* single texts; leave .*'second'"),
        (True, False, None, UsageError, "on pairs.* second .*--data"),
    ],
)
def test_a_run_on_pairs_takes_pairs_and_no_other_run_does(
    model, write, trained, given, data, error, said
):
    config = prepared(model, write("train", LINES)).config
    single = Texts(texts=("a",), pairs=None, places=("text 1",))
    texts = {False: single, True: dataclasses.replace(single, pairs=("b",))}
    path = Path(data) if data else None
    config = dataclasses.replace(config, pair=trained)
    with pytest.raises(error, match=said):
        check_pairs(config, texts[given], path, "second")
    check_pairs(config, texts[trained], path, "second")


def test_a_language_models_targets_are_its_next_tokens(decoder, write):
    data = write("train", [{"prompt": "a", "completion": "b c"}, {"prompt": "a", "completion": ""}])
    found = prepared(decoder, data, data, task=None)
    assert (found.config.task, found.config.num_outputs, found.config.labels) == (
        "causal-lm",
        8,
        (),
    )
    for table in found.tables.values():
        assert [row.tolist() for row in table.samples.inputs["input_ids"]] == [
            [CLS, 4, 5, 6, SEP],
            [CLS, 4, SEP],
        ]
        assert [row.tolist() for row in table.targets] == [[-1, 5, 6, SEP, -1], [-1, SEP, -1]]
    assert found.truncated == ()
    blank, torn, both = found.notes
    assert f"1 of 2 completions are blank: {data}, line 2" in blank
    assert "1 prompt stands on several lines with different completions" in torn
    assert "2 of 2 lines to evaluate on are among those to train on" in both


def test_the_same_bundle_may_be_trained_to_classify(decoder, write):
    found = prepared(decoder, write("train", LINES), task="classification")
    assert (found.config.task, found.config.causal) == ("classification", False)


def test_a_task_that_the_bundle_cannot_do_is_bad_input(model, write):
    with pytest.raises(BadInputError, match=r"exported for classification .* --task causal-lm"):
        prepared(model, write("train", [{"text": "a"}]), task="causal-lm")


def test_lines_and_layers_that_are_not_as_given_are_noted(decoder, write):
    choice = AdapterChoice(reduction=2, layers="0,1")
    (decoder / "tokenizer" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
    )
    chats = [
        {"messages": [{"role": "user", "content": asked}, ANSWER]} for asked in ("a", "a " * 20)
    ]
    found = prepared(decoder, write("train", chats), task=None, choice=choice)
    assert found.config.layers == (0, 1, 2)
    added, endless, skipped = found.notes
    assert "no stop token" in endless
    assert added == "adapter layers: added 2, the last of a stack"
    assert "train: skipped 1 of its lines, without a token to learn within 8" in skipped
    assert len(found.tables["train"]) == 1


@pytest.mark.parametrize(
    ("line", "chats"),
    [
        ({"messages": [{"role": "user", "content": "a"}, ANSWER]}, True),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}]}, True),
        ({"instruction": "a", "output": "c"}, True),
        ({"prompt": "a", "completion": " c"}, False),
        ({"text": "a c"}, False),
    ],
)
def test_settings_say_whether_a_language_model_was_trained_on_chats(decoder, write, line, chats):
    (decoder / "tokenizer" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
    )
    found = prepared(decoder, write("train", [line]), task=None)
    assert run_settings(found, None, "fp16").chats is chats
