"""Data that a tiny random model can learn from, and a home of one's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import processes_of, write_jsonl

NOUNS = ("cat", "dog", "film", "music", "rain")
TAILS = ("", "it and", "in the rain and", "at the film and in music and")


def lines(count: int, seed: int) -> list[dict[str, str]]:
    """Distinct sentences whose label is their last word."""
    generator = random.Random(seed)
    found: dict[str, dict[str, str]] = {}
    while len(found) < count:
        words = [generator.choice(NOUNS) for _ in range(generator.randint(1, 6))]
        label = generator.choice(("good", "bad", "stop"))
        text = " ".join(["the", *words, "is", generator.choice(TAILS), label])
        found[text] = {"text": text, "label": label}
    return list(found.values())


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train.jsonl`` and ``eval.jsonl``."""
    folder = tmp_path_factory.mktemp("data")
    every = lines(360, 1)
    write_jsonl(folder / "train.jsonl", every[:300])
    write_jsonl(folder / "eval.jsonl", every[300:])
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty ``PACPLUS_HOME``; fails the test if a process outlives it."""
    folder = tmp_path / "home"
    yield folder
    left = list(processes_of(folder))
    assert not left, f"processes were left behind: {left}"
