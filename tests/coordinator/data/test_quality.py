import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from coordinator.data import LanguageData, read_language_data, read_training_data
from coordinator.data.quality import check_answers, notes_on, notes_on_overlap, questions
from edge_runtime.contract.errors import BadInputError


def labelled(folder: Path, *pairs: tuple[str, object]) -> list[str]:
    path = folder / "data.jsonl"
    lines = [{"text": text, "label": label} for text, label in pairs]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return notes_on(read_training_data(path, "classification"), "data")


def test_labels_that_look_alike_are_named_with_their_lines(tmp_path: Path) -> None:
    alike = [("bad", "bad "), ("bad", "Bad"), ("bad", "bad\u200b"), ("1", "1.0"), ("1", True)]
    for bad, other in [*alike, ("b\u00e4d", "ba\u0308d")]:
        pairs = [("a", bad), ("b", bad), ("c", other), ("d", other), ("e", "good"), ("f", "good")]
        (note,) = labelled(tmp_path, *pairs)
        spelt = [ascii(str(bad)), ascii(str(other).replace("True", "true"))]
        assert all(f"{label} (2 lines)" in note for label in spelt)
        assert "differ in blanks, case or form only; they are 2 classes" in note


def test_labels_that_python_alone_takes_for_numbers_are_none(tmp_path: Path) -> None:
    pairs = zip("abcd", ["1_0", "10"] * 2, strict=True)
    assert labelled(tmp_path, *pairs) == []


def test_labels_of_one_line_are_counted(tmp_path: Path) -> None:
    (note,) = labelled(tmp_path, ("a", "x"), ("b", "x"), ("c", "y"))
    assert "1 labels have one line only: 'y'" in note


def test_many_numbers_as_labels_are_probably_values(tmp_path: Path) -> None:
    for factor in (1, 0.5):
        notes = labelled(tmp_path, *((f"text {i}", f"{i * factor:g}") for i in range(60)))
        assert any("60 numbers as labels on 60 lines; to learn a value" in note for note in notes)


def test_texts_with_several_labels_and_blank_texts_are_counted(tmp_path: Path) -> None:
    pairs = [("a", "x"), ("a", "y"), (" ", "x"), ("b", "y")]
    blank, torn = labelled(tmp_path, *pairs)
    assert "1 of 4 texts are blank" in blank
    assert "1 text stands on several lines with different labels" in torn


def test_lines_that_are_trained_and_evaluated_on_are_counted(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": c}, {"role": "assistant", "content": "b"}] for c in "ac"]
    both = []
    for name, kept in (("train", chats), ("eval", chats[1:])):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in kept))
        both.append(read_language_data(path, "causal-lm"))
    (note,) = notes_on_overlap(both[0], both[1], "eval")
    assert note.startswith("eval: 1 of 1 lines to evaluate on are among those to train on")


def test_labels_and_texts_that_stand_for_nothing_are_counted(tmp_path: Path) -> None:
    pairs = [("a", "nan"), ("b", "nan"), ("c", "x"), ("None", "x")]
    texts, labels = labelled(tmp_path, *pairs)
    assert "1 of 4 texts are 'None'" in texts
    assert "2 labels are 'nan'; if that stands for nothing, leave these lines out" in labels


def test_long_labels_are_cut(tmp_path: Path) -> None:
    (note,) = labelled(tmp_path, *(("x" + str(i), f"{i} " + "y" * 9_000) for i in range(3)))
    assert len(note) < 400


def test_texts_with_several_values_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text('{"text": "a", "label": 2}\n{"text": "a", "label": 3}\n')
    notes = notes_on(read_training_data(path, "regression"), "data")
    assert notes == ["data: 1 text stands on several lines with different values"]


def test_answers_that_are_blank_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "data"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]
    path.write_text(json.dumps({"messages": turns}))
    notes = notes_on(read_language_data(path, "causal-lm"), "data")
    assert notes == [f"data: 1 of 1 learnt turns are blank: {path}, line 1"]
    path.write_text('{"source": "a", "target": ""}')
    (note,) = notes_on(read_language_data(path, "seq2seq"), "d")
    assert note == f"d: 1 of 1 targets are blank: {path}, line 1"


def test_the_first_lines_that_are_blank_are_named(tmp_path: Path) -> None:
    data = completions(tmp_path, ("a", "b"), *((f"a{i}", " ") for i in range(6)))
    (note,) = notes_on(data, "data")
    named = ", ".join(f"{tmp_path / 'data'}, line {number}" for number in range(2, 7))
    assert note == f"data: 6 of 7 completions are blank: {named}, ..."


def test_data_of_which_all_that_is_learnt_is_blank_are_refused(tmp_path: Path) -> None:
    check_answers(completions(tmp_path, ("a", ""), ("b", "c")), "data")
    with pytest.raises(BadInputError, match="data: all completions are blank, so there is nothing"):
        check_answers(completions(tmp_path, ("a", ""), ("b", "\n")), "data")
    call = {"function": {"name": "now", "arguments": "{}"}}
    blank: dict[str, object] = {"role": "assistant", "content": ""}
    for turn in (blank, {**blank, "tool_calls": [call]}, {**blank, "thinking": "so"}):
        data = chats(tmp_path, ("q", turn))
        if turn is blank:
            with pytest.raises(BadInputError, match="data: all learnt turns are blank"):
                check_answers(data, "data")
        else:
            check_answers(data, "data")


def test_prompts_with_several_completions_are_counted(tmp_path: Path) -> None:
    data = completions(tmp_path, ("a", "b"), ("a", "b"), ("a", "c"), ("d", "b"))
    note = "1 prompt stands on several lines with different completions"
    assert notes_on(data, "data") == [f"data: {note}"]
    assert questions(data) == ["a", "a", "a", "d"]


def test_chats_with_several_answers_are_counted(tmp_path: Path) -> None:
    said = [(q, {"role": "assistant", "content": a}) for q, a in ("ab", "ab", "ac", "de")]
    data = chats(tmp_path, *said)
    notes = notes_on(data, "data")
    assert notes == ["data: 1 chat stands on several lines with different answers"]
    assert len(set(questions(data))) == 2
    assert not notes_on(chats(tmp_path, *said[:2]), "data"), "they agree"


def completions(folder: Path, *pairs: tuple[str, str]) -> LanguageData:
    lines = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    return read_lines(folder / "data", lines)


def chats(folder: Path, *pairs: tuple[str, object]) -> LanguageData:
    lines = [{"messages": [{"role": "user", "content": q}, a]} for q, a in pairs]
    return read_lines(folder / "data", lines)


def read_lines(path: Path, lines: Sequence[object]) -> LanguageData:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_language_data(path, "causal-lm")
