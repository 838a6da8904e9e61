"""What is odd about data is said; what would change what is learnt is refused."""

import json
from pathlib import Path

import pytest

from coordinator.api.reading import read_alone, read_inputs
from coordinator.api.use.predict import predict
from coordinator.data import FieldNames, read_data
from edge_runtime.contract.errors import BadInputError, UsageError


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def labelled(number: int) -> list[dict[str, str]]:
    return [{"text": f"text {i}", "label": f"label {i}"} for i in range(number)]


@pytest.mark.parametrize(
    ("task", "names", "option"),
    [
        ("classification", {"text_pair": "sentense2"}, "--text-pair-field"),
        ("causal-lm", {"messages": "chat"}, "--messages-field"),
    ],
)
def test_a_name_that_no_line_has_is_refused(tmp_path: Path, task, names, option) -> None:
    data = write(tmp_path / "a.jsonl", *labelled(2))
    with pytest.raises(BadInputError, match=rf"no line has the field .* of {option}; the first"):
        read_inputs(data, None, task, FieldNames(**names))


@pytest.mark.parametrize("line", [{"prompt": "a", "completion": "b"}, {"messages": []}])
def test_lines_of_a_language_model_are_told_from_wrong_names(tmp_path: Path, line) -> None:
    data = write(tmp_path / "a.jsonl", line)
    said = f"line 1: has '{next(iter(line))}', as lines for causal-lm have, .* for classification"
    with pytest.raises(BadInputError, match=said):
        read_inputs(data, None, "classification", FieldNames())


def test_fields_that_are_not_read_are_said_shortly_and_without_speaking_to_the_terminal(tmp_path):
    more = {f"\x1b[31m{i}": 1 for i in range(1_000)}
    data = write(tmp_path / "a.jsonl", *({**line, **more} for line in labelled(2)))
    (note, _) = read_inputs(data, None, "classification", FieldNames()).notes
    assert "'\\x1b[31m7' and 992 more" in note
    assert "\x1b" not in note


def test_labels_that_are_held_out_wholly_are_said(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", *labelled(6))
    notes = read_inputs(data, None, "classification", FieldNames(), 0.5).notes
    assert any("labels have no line to train on: 'label" in note for note in notes)


def test_lines_of_several_files_are_told_apart_by_their_files(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.jsonl", {"text": "a", "label": "x"}),
        write(tmp_path / "b.jsonl", {"text": "a", "text_pair": "b", "label": "y"}),
    ]
    with pytest.raises(BadInputError, match=r"b\.jsonl, line 1: .* which .*a\.jsonl, line 1 lacks"):
        read_inputs(files, None, "classification", FieldNames())


def test_one_string_is_not_taken_for_its_characters(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a list of texts, or the path of a file"):
        predict(tmp_path, "wake me at seven")


def test_lines_that_a_split_tells_apart_are_said_to_be_used_all_the_same(tmp_path: Path) -> None:
    def notes(*parts: str) -> tuple[str, ...]:
        lines = [{**labelled(2)[i % 2], "split": part} for i, part in enumerate(parts)]
        data = write(tmp_path / "a.jsonl", *lines)
        return read_inputs(data, None, "classification", FieldNames()).notes

    said = "all lines are used, though 'split' tells 'train', 'test' apart"
    assert any(said in note for note in notes("train", "train", "test", "test"))
    assert not any("apart" in note for note in notes("train", "train", "train", "train"))


def test_evaluation_data_are_looked_at_for_texts_that_stand_for_nothing(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", *labelled(2) * 2)
    odd = write(tmp_path / "dev.jsonl", {"text": " ", "label": "label 0"})
    notes = read_inputs(train, odd, "classification", FieldNames()).notes
    assert f"{odd}: 1 of 1 texts are blank: {odd}, line 1" in notes
    assert not any("no line to train on" in note for note in notes)


def test_only_blank_completions_are_not_trained_on_but_may_be_evaluated_on(tmp_path: Path) -> None:
    blank = write(tmp_path / "blank.jsonl", {"prompt": "a", "completion": " "})
    said = write(tmp_path / "said.jsonl", {"prompt": "a", "completion": "b"})
    assert read_inputs(said, blank, "causal-lm", FieldNames()).notes
    for read in (
        lambda: read_inputs(blank, said, "causal-lm", FieldNames()),
        lambda: read_alone(read_data(blank), "causal-lm", FieldNames()),
    ):
        with pytest.raises(BadInputError, match=r"blank\.jsonl: all completions are blank"):
            read()


@pytest.mark.parametrize(
    ("line", "mend"),
    [
        ({"prompt": "a", "response": "b"}, "for want of 'completion', say --completion-field resp"),
        ({"completion": "b", "Input": "a"}, "for want of 'prompt', say --prompt-field Input"),
        ({"prompt": "a", "thinking": "b", "response": "c"}, "say --ignore-field thinking"),
        ({"instruction": "a", "response": "b"}, "rename it to 'output'"),
        ({"instruction": "a", "context": "c", "output": "b"}, "rename it to 'input'"),
        ({"prompt": "a", "completion": "b", "response": "c"}, "or say --ignore-field response"),
    ],
)
def test_a_field_that_stands_for_one_that_is_missing_is_told_to_be_it(
    tmp_path: Path, line: object, mend: str
) -> None:
    data = write(tmp_path / "a.jsonl", line)
    with pytest.raises(BadInputError, match=f"line 1: field .*; .*{mend}"):
        read_inputs(data, None, "causal-lm", FieldNames())
