"""Makes assistant-train.jsonl and assistant-eval.jsonl out of SNIPS' train and dev files.

Example: python examples/make_assistant_data.py SNIPS_FOLDER examples
"""

from __future__ import annotations

import collections
import hashlib
import json
import sys
from pathlib import Path

TRAIN_LINES_PER_INTENT = 286


def read(path: Path) -> list[tuple[str, str]]:
    """Pairs of text and label."""
    lines = path.read_text("utf-8").splitlines()
    return [(row["text"], row["label"]) for row in map(json.loads, lines)]


def rank(text: str) -> str:
    """A fixed random place for a text, the same with every Python."""
    return hashlib.sha256(text.encode()).hexdigest()


def sample(train: list[tuple[str, str]], kept_out: set[str]) -> list[tuple[str, str]]:
    """Equally many distinct texts of every intent, none of them kept out, shuffled."""
    taken: collections.Counter[str] = collections.Counter()
    chosen = []
    for text, label in sorted(set(train), key=lambda row: (rank(row[0]), row[1])):
        if text not in kept_out and taken[label] < TRAIN_LINES_PER_INTENT:
            taken[label] += 1
            chosen.append((text, label))
    return chosen


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """One object a line."""
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def main(source: Path, target: Path) -> None:
    """Reads ``source`` and writes the two files to ``target``."""
    evaluation = read(source / "dev.jsonl")
    train = sample(read(source / "train.jsonl"), {text for text, _ in evaluation})
    write(target / "assistant-train.jsonl", train)
    write(target / "assistant-eval.jsonl", evaluation)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
