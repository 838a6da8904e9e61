import json
from pathlib import Path

from coordinator.data import read_language_data, read_training_data
from coordinator.data.quality import notes_on, notes_on_overlap


def labelled(folder: Path, *pairs: tuple[str, object]) -> list[str]:
    path = folder / "data.jsonl"
    lines = [{"text": text, "label": label} for text, label in pairs]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return notes_on(read_training_data(path, "classification"), "data")


def test_labels_that_look_alike_are_named_with_their_lines(tmp_path: Path) -> None:
    for other in ("bad ", "Bad", "b\u00e4d".replace("\u00e4", "a\u0308")):
        bad = "bäd" if "\u0308" in other else "bad"
        pairs = [("a", bad), ("b", bad), ("c", other), ("d", other), ("e", "good"), ("f", "good")]
        (note,) = labelled(tmp_path, *pairs)
        assert all(f"{label!r} (2 lines)" in note for label in (bad, other))
        assert "differ in blanks, case or form only; they are 2 classes" in note


def test_labels_of_one_line_are_counted(tmp_path: Path) -> None:
    (note,) = labelled(tmp_path, ("a", "x"), ("b", "x"), ("c", "y"))
    assert "1 labels have one line only: 'y'" in note


def test_many_numbers_as_labels_are_probably_values(tmp_path: Path) -> None:
    notes = labelled(tmp_path, *((f"text {i}", i) for i in range(60)))
    assert any("60 numbers as labels on 60 lines; to learn a value" in note for note in notes)


def test_texts_with_several_labels_and_blank_texts_are_counted(tmp_path: Path) -> None:
    pairs = [("a", "x"), ("a", "y"), (" ", "x"), ("b", "y")]
    blank, torn = labelled(tmp_path, *pairs)
    assert "1 of 4 texts are blank" in blank
    assert "1 texts stand on several lines with different labels" in torn


def test_lines_that_are_trained_and_evaluated_on_are_counted(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": c}, {"role": "assistant", "content": "b"}] for c in "ac"]
    both = []
    for name, kept in (("train", chats), ("eval", chats[1:])):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in kept))
        both.append(read_language_data(path, "causal-lm"))
    (note,) = notes_on_overlap(both[0], both[1], "eval")
    assert note.startswith("eval: 1 of 1 lines to evaluate on are among those to train on")
