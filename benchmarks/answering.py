"""Times answers of a run in this machine alone against its merged model in a bare ONNX Runtime.

python -m benchmarks.answering --run RUN --data dev.jsonl

Both are the same model, tokenizer and texts; each figure is the least of --repeats processes, taken
in turns. Of a command and of a bare script, imports included, CPU-seconds; of a loaded model,
milliseconds for one sentence, and for each of the data's texts in one call (the bare session in
batches of 32, in their order). "In turns" has both in one process, call by call, for one sentence:
whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SENTENCE = "a charming and often affecting journey"
BATCH = 32
CALLS = 300
COLUMNS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Bare:
    """The merged model as anybody would use it."""

    def __init__(self, model: str, tokenizer: str) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self._session = onnxruntime.InferenceSession(model)
        self._names = [item.name for item in self._session.get_inputs()]
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._tokenizer = Tokenizer.from_file(tokenizer)
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(int(metadata["max_length"]))

    def predict(self, texts: list[str]) -> None:
        """Computes the outputs of texts."""
        import numpy as np

        for start in range(0, len(texts), BATCH):
            rows = self._tokenizer.encode_batch(texts[start : start + BATCH])
            feeds = {
                name: np.array([getattr(row, COLUMNS[name]) for row in rows])
                for name in self._names
            }
            self._session.run(["logits"], feeds)


def opened(arguments: argparse.Namespace) -> Any:
    """The model of one side, loaded."""
    if arguments.side == "bare":
        return Bare(str(arguments.model), str(arguments.tokenizer))
    import pacplus

    return pacplus.load(arguments.run)


def timed(model: Any, texts: list[str], calls: int) -> dict[str, float]:
    """Milliseconds of a text."""
    model.predict(texts)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        model.predict(texts)
    each = 1000 / (calls * len(texts))
    return {
        "cpu_ms": each * (time.process_time() - cpu),
        "ms": each * (time.perf_counter() - wall),
    }


def side(arguments: argparse.Namespace) -> None:
    """What one process measures of one side."""
    model = opened(arguments)
    found = {"one": timed(model, [SENTENCE], CALLS)}
    if arguments.data:
        lines = arguments.data.read_text("utf-8").splitlines()
        found["many"] = timed(model, [json.loads(line)["text"] for line in lines], 1)
    print(json.dumps(found))


def in_turns(arguments: argparse.Namespace) -> None:
    """What one process measures of both sides, call by call: milliseconds of a sentence."""
    import numpy as np

    import pacplus

    models: dict[str, Any] = {
        "bare": Bare(str(arguments.model), str(arguments.tokenizer)),
        "pacplus": pacplus.load(arguments.run),
    }
    took: dict[str, list[float]] = {name: [] for name in models}
    for call in range(-CALLS // 10, CALLS):
        for name, model in models.items() if call % 2 else reversed(models.items()):
            began = time.perf_counter()
            model.predict([SENTENCE])
            if call >= 0:
                took[name].append(1000 * (time.perf_counter() - began))
    found = {
        name: {"least": min(each), "median": float(np.median(each))} for name, each in took.items()
    }
    print(json.dumps(found))


def process(command: list[str]) -> tuple[float, str]:
    """CPU-seconds of a process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, ended.stdout.decode()


def least(found: list[dict[str, dict[str, float]]], what: str, unit: str) -> float:
    """The least of some processes."""
    return min(each[what][unit] for each in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="JSONL with text")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--side", choices=["bare", "loaded", "script", "turns"], help=argparse.SUPPRESS
    )
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "script":
        Bare(str(arguments.model), str(arguments.tokenizer)).predict([SENTENCE])
    elif arguments.side == "turns":
        in_turns(arguments)
    elif arguments.side:
        side(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Measures both sides in turns and prints a table."""
    settings = json.loads((arguments.run / "run.json").read_text())
    tokenizer = Path(settings["bundle"]) / "tokenizer" / "tokenizer.json"
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        process(["-m", "coordinator", "merge", str(arguments.run), "-o", str(model)])
        own = ["-m", "benchmarks.answering", "--run", str(arguments.run), "--model", str(model)]
        own += ["--tokenizer", str(tokenizer)]
        if arguments.data:
            own += ["--data", str(arguments.data)]
        command = ["-m", "coordinator", "predict", str(arguments.run), "--text", SENTENCE]
        scripts, commands, bare, loaded, turns = [], [], [], [], []
        for _ in range(arguments.repeats):
            scripts.append(process([*own, "--side", "script"])[0])
            commands.append(process(command)[0])
            bare.append(json.loads(process([*own, "--side", "bare"])[1]))
            loaded.append(json.loads(process([*own, "--side", "loaded"])[1]))
            turns.append(json.loads(process([*own, "--side", "turns"])[1]))
    show("a process, CPU-s", min(scripts), min(commands))
    for what in bare[0]:
        for unit in ("cpu_ms", "ms"):
            show(f"{what}, {unit} a text", least(bare, what, unit), least(loaded, what, unit))
    for kind in ("least", "median"):
        both = [min(each[side][kind] for each in turns) for side in ("bare", "pacplus")]
        show(f"in turns, {kind} ms", *both)


def show(what: str, bare: float, pacplus: float) -> None:
    print(f"{what:24} bare {bare:8.3f}  pacplus {pacplus:8.3f}  ratio {pacplus / bare:5.2f}")


if __name__ == "__main__":
    main()
