import json
from pathlib import Path

import pytest

from coordinator.data import FieldNames, read_evaluation_data, read_texts, read_training_data
from edge_runtime.contract.errors import BadInputError


def jsonl(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def raw(folder: Path, data: bytes) -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(data)
    return path


A = {"text": "play a song", "label": "music"}
B = {"text": "will it rain?", "label": "weather"}


def test_labels_are_the_sorted_set_found_in_training(tmp_path: Path) -> None:
    data = read_training_data(jsonl(tmp_path, B, A, B), "classification")
    assert data.labels == ("music", "weather")
    assert data.targets.tolist() == [1, 0, 1]
    assert data.inputs.texts == (B["text"], A["text"], B["text"])
    assert data.inputs.pairs is None


def test_integers_booleans_and_strings_are_labels(tmp_path: Path) -> None:
    lines = [{"text": "", "label": label} for label in (1, "1", True, "x")]
    data = read_training_data(jsonl(tmp_path, *lines), "classification")
    assert data.labels == ("1", "true", "x")
    assert data.targets.tolist() == [0, 0, 1, 2]


def test_pairs_are_read(tmp_path: Path) -> None:
    lines = [{**A, "text_pair": "one"}, {**B, "text_pair": "two"}]
    assert read_training_data(jsonl(tmp_path, *lines), "classification").inputs.pairs == (
        "one",
        "two",
    )


def test_fields_can_be_renamed(tmp_path: Path) -> None:
    lines = [{"s1": "a", "s2": "b", "y": "0"}, {"s1": "c", "s2": "d", "y": "1"}]
    names = FieldNames(text="s1", text_pair="s2", label="y")
    data = read_training_data(jsonl(tmp_path, *lines), "classification", names)
    assert (data.inputs.texts, data.inputs.pairs) == (("a", "c"), ("b", "d"))
    assert data.targets.tolist() == [0, 1]


def test_numbers_may_be_quoted(tmp_path: Path) -> None:
    lines = [{"text": "a", "label": label} for label in (1, 2.5, "-3")]
    data = read_training_data(jsonl(tmp_path, *lines), "regression")
    assert data.targets.tolist() == [1.0, 2.5, -3.0]
    assert data.labels == ()


def test_mark_blank_lines_and_windows_ends_are_passed_over(tmp_path: Path) -> None:
    lines = b"\r\n\r\n".join(json.dumps(line).encode() for line in (A, B))
    data = read_training_data(raw(tmp_path, b"\xef\xbb\xbf" + lines + b"\n \n"), "classification")
    path = tmp_path / "data.jsonl"
    assert data.inputs.places == (f"{path}, line 1", f"{path}, line 3")


def test_texts_need_no_label(tmp_path: Path) -> None:
    assert read_texts(jsonl(tmp_path, {"text": "a"}, A)).texts == ("a", A["text"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "data.jsonl: is empty; it must hold one JSON object a line"),
        (b"\n\n", "is empty"),
        (b'{"text": "a", "label": "x"}\nhello\n', r"line 2: not JSON \(Expecting value"),
        (b'{"a":' * 100_000, "line 1: not JSON"),
        (b"1", r"line 1: expected a JSON object, got 1"),
        (b"[1]", r"item 1: expected an object, got 1"),
        (b'{"text": "a", "text": "b", "label": "x"}', "line 1: not JSON \\('text' stands twice"),
        (b'{"text": "a", "label": NaN}', "line 1: not JSON \\(NaN is no JSON"),
        (b'{"text": "a\xff"}', r"line 1: not UTF-8 \(byte 12 of the line\); save the file"),
        (b'{"label": "x"}', "line 1: field 'text' is missing .* 'label'.*--text-field"),
        (b'{"text": "a"}', "line 1: field 'label' is missing"),
        (b'{"text": 3, "label": "x"}', "line 1: field 'text' must be a string, got 3"),
        (b'{"text": "\\ud800", "label": "x"}', "line 1: field 'text' must be text without lone"),
        (b'{"text": "a", "label": 1.5}', "line 1: field 'label' must be a label"),
        (b'{"text": "a", "label": ""}', "line 1: field 'label' must be a label"),
        (b'{"text": "a", "label": " "}', "line 1: field 'label' must be a label"),
        (b'{"text": "a", "label": "\\ud800"}', "'label' must be text without lone surrogates"),
        (b'{"text": "a", "label": null}', "line 1: field 'label' must be a label"),
        (
            b'{"text": "a", "label": "x"}\n{"text": "a", "text_pair": "b", "label": "x"}',
            "line 2: has the field 'text_pair', which line 1 lacks; give it on every line",
        ),
        (
            b'{"text": "a", "text_pair": "b", "label": "x"}\n{"text": "a", "label": "x"}',
            "line 2: lacks the field 'text_pair', which line 1 has",
        ),
        (b'{"text": "a", "label": "x"}', "'x' on every line; classification needs"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        read_training_data(raw(tmp_path, data), "classification")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [1764341000000000005, "1764341000000000005"])
def test_integers_that_lose_digits_are_refused(tmp_path: Path, label: object) -> None:
    with pytest.raises(BadInputError, match="an integer that float64 holds; subtract what all"):
        read_training_data(jsonl(tmp_path, {"text": "a", "label": label}), "regression")


def test_numbers_keep_the_digits_of_float64(tmp_path: Path) -> None:
    values = [1764341005, 1764341010, 2**60, "1764341000.125"]
    data = read_training_data(
        jsonl(tmp_path, *({"text": f"{v}", "label": v} for v in values)), "regression"
    )
    assert data.targets.tolist() == [1764341005.0, 1764341010.0, 2.0**60, 1764341000.125]


@pytest.mark.parametrize("field", ["text", "label"])
def test_a_field_that_one_line_lacks_needs_no_other_name(tmp_path: Path, field: str) -> None:
    lacking = {name: value for name, value in B.items() if name != field}
    message = f"line 2: lacks the field '{field}', which line 1 has; add it, or leave the line out"
    with pytest.raises(BadInputError, match=message):
        read_training_data(jsonl(tmp_path, A, lacking), "classification")


@pytest.mark.parametrize("label", ["many", True, None, [1], "nan", "3_1", 1e39, 10**400])
def test_regression_needs_finite_numbers(tmp_path: Path, label: object) -> None:
    with pytest.raises(BadInputError, match="line 1: field 'label' must be a finite number"):
        read_training_data(jsonl(tmp_path, {"text": "a", "label": label}), "regression")


def test_an_unknown_evaluation_label_is_named_with_the_known_ones(tmp_path: Path) -> None:
    path = jsonl(tmp_path, A, {"text": "hi", "label": "greeting"})
    message = "line 2: field 'label' is 'greeting', which training does not know; it knows 'music'"
    with pytest.raises(BadInputError, match=message):
        read_evaluation_data(path, "classification", ("music", "weather"))


def test_an_unknown_label_that_looks_like_a_known_one_is_told_apart(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "hi", "label": "ba\u0308d"})
    with pytest.raises(BadInputError) as caught:
        read_evaluation_data(path, "classification", ("b\u00e4d", "good"))
    assert r"is 'ba\u0308d', which training does not know; it knows 'b\xe4d'" in str(caught.value)


def test_an_ignored_second_text_is_not_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {**A, "text_pair": "one"}, B)
    ignoring = FieldNames(ignored=("text_pair",))
    assert read_training_data(path, "classification", ignoring).inputs.pairs is None


def test_only_the_first_of_many_known_labels_are_shown(tmp_path: Path) -> None:
    known = tuple(f"l{i:03}" for i in range(150))
    with pytest.raises(BadInputError, match=r"'l007' and 142 more$"):
        read_evaluation_data(jsonl(tmp_path, A), "classification", known)


def test_evaluation_keeps_the_order_of_training_labels(tmp_path: Path) -> None:
    data = read_evaluation_data(jsonl(tmp_path, B), "classification", ("weather", "music"))
    assert data.targets.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no such file"),
        (".", "is a folder, but"),
        ("a text in place of a path" * 20, "cannot be read"),
        ("a\0b", "is no path"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read_texts(tmp_path / name)
