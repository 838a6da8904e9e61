import json
from pathlib import Path

import pytest

from coordinator.data import DataFile, read_data, split
from edge_runtime.contract.errors import BadInputError


def data(folder: Path, *texts: str) -> DataFile:
    path = folder / "data.jsonl"
    path.write_text(
        "".join(json.dumps({"text": t, "label": i}) + "\n" for i, t in enumerate(texts))
    )
    return read_data(path)


def texts(file: DataFile) -> list[str]:
    return [line.values["text"] for line in file.lines]


def test_a_line_falls_on_the_same_side_whatever_is_beside_it(tmp_path: Path) -> None:
    names = [f"text {i}" for i in range(400)]
    train, held = split(data(tmp_path, *names), 0.1, {"text"})
    assert 20 <= len(held.lines) <= 60
    assert sorted(texts(train) + texts(held)) == sorted(names)
    again_train, again_held = split(data(tmp_path, *reversed(names[100:])), 0.1, {"text"})
    assert set(texts(again_held)) == set(texts(held)) & set(names[100:])
    assert set(texts(again_train)).isdisjoint(texts(held))
    more = split(data(tmp_path, *names), 0.3, {"text"})[1]
    assert set(texts(held)) < set(texts(more)), "a larger fraction only adds"


def test_lines_that_ask_the_same_stay_together(tmp_path: Path) -> None:
    twice = [f"text {i // 2}" for i in range(100)]
    train, held = split(data(tmp_path, *twice), 0.3, {"text"})
    assert set(texts(train)).isdisjoint(texts(held))


def test_a_side_without_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError, match=r"--split 0\.1 leaves no line to (evaluate|train) on of 1"
    ):
        split(data(tmp_path, "a"), 0.1, {"text"})
