"""Lines to train on and held-out lines, written as files, and the samples that they become."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.samples.samples import SampleTable

PARTS = ("train", "dev")
_HUMAN, _ASSISTANT = "### Human:", "### Assistant:"


def write_lines(data: Path, out: Path, counts: dict[str, int]) -> dict[str, Path]:
    """Writes the first lines of both parts of ``data`` as files in ``out``.

    A folder without train.jsonl is the set of instructions: its files are read with their own
    columns and shuffled, always alike, and the held-out lines are the first.
    """
    files = {part: out / f"{part}.jsonl" for part in PARTS}
    if (data / "train.jsonl").exists():
        for part, file in files.items():
            with (data / f"{part}.jsonl").open(encoding="utf-8") as lines:
                kept = "".join(itertools.islice(lines, counts[part]))
            file.write_text(kept, encoding="utf-8")
        return files
    rows = list(_instructions(data))
    random.Random(0).shuffle(rows)
    dev, train = rows[: counts["dev"]], rows[counts["dev"] :][: counts["train"]]
    for part, chosen in (("train", train), ("dev", dev)):
        files[part].write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    return files


def _instructions(data: Path) -> Iterator[dict[str, str]]:
    for path in sorted(data.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            prompt, completion = _turn(json.loads(line))
            if prompt and completion:
                yield {"prompt": prompt, "completion": completion}


def _turn(row: dict[str, Any]) -> tuple[str, str]:
    """What is asked first and what is answered."""
    if "text" in row:
        asked, _, answered = row["text"].partition(_ASSISTANT)
        return asked.removeprefix(_HUMAN).strip(), answered.partition(_HUMAN)[0].strip()
    instance = row["instances"][0]
    return f"{row['instruction']}\n{instance['input']}".strip(), instance["output"].strip()


def tables(
    bundle: Path, files: dict[str, Path], batch_size: int, max_length: int | None
) -> dict[str, SampleTable]:
    """Samples as pacplus trains on them, so that LoRA gets the same tokens in the same batches."""
    from coordinator import AdapterChoice, TrainingOptions
    from coordinator.api.inputs import prepare

    prepared = prepare(
        bundle=bundle,
        data=files["train"],
        evaluation=files["dev"],
        task=None,
        choice=AdapterChoice(),
        options=TrainingOptions(batch_size=batch_size),
        fields=None,
        max_length=max_length,
    )
    return {"train": prepared.tables["train"], "dev": prepared.tables["eval"]}
