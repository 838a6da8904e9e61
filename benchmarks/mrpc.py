"""Fine-tunes MiniLM on MRPC and prints dev accuracy and F1, means over seeds.

Example: python benchmarks/mrpc.py --data ../shared/data/mrpc --bundle minilm --lora MODEL

The learning rate is chosen from the grid by the first seed's accuracy, then the other seeds
follow. With --lora the same is done with LoRA (peft, r = 8 on queries and values) on the
checkpoint that the bundle was exported from. The positive class is "1".
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Scores = dict[str, float]
BATCH_SIZE = 16
MAX_LENGTH = 128
NEIGHBOURS = 256
"""Samples that are sorted by length before LoRA's batches are cut, to save padding."""


def main() -> None:
    arguments = _arguments()
    if arguments.bundle:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PACPLUS_HOME"] = str(Path(folder) / "home")
            _measure("adapter", arguments, functools.partial(_adapter, arguments, Path(folder)))
    if arguments.lora:
        _measure("LoRA r=8", arguments, _Lora(arguments.lora, arguments.data).train)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train and dev.jsonl")
    parser.add_argument("--bundle", type=Path, help="MiniLM, exported")
    parser.add_argument("--lora", type=Path, help="MiniLM's checkpoint: measures LoRA")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--adapter", choices=("attention", "mlp"), default="attention")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    return parser.parse_args()


def _measure(
    method: str, arguments: argparse.Namespace, train: Callable[[float, int, int], Scores]
) -> None:
    def run(learning_rate: float, seed: int) -> Scores:
        scores = train(learning_rate, seed, arguments.epochs)
        line = {"method": method, "learning_rate": learning_rate, "seed": seed, **scores}
        print(json.dumps(line), flush=True)
        return scores

    first, *others = arguments.seeds
    grid = {rate: run(rate, first) for rate in arguments.learning_rates}
    best = max(grid, key=lambda rate: grid[rate]["accuracy"])
    results = [grid[best], *(run(best, seed) for seed in others)]
    means = {
        name: round(sum(result[name] for result in results) / len(results), 4)
        for name in ("accuracy", "f1")
    }
    print(f"{method}: learning rate {best:g}, mean of {len(results)} seeds: {means}", flush=True)


def _adapter(
    arguments: argparse.Namespace, folder: Path, learning_rate: float, seed: int, epochs: int
) -> Scores:
    from coordinator import AdapterChoice, TrainingOptions, train

    result = train(
        arguments.bundle,
        arguments.data / "train.jsonl",
        evaluation=arguments.data / "dev.jsonl",
        output=folder / f"{learning_rate:g}-{seed}",
        adapter=AdapterChoice(kind=arguments.adapter),
        options=TrainingOptions(
            epochs=epochs, learning_rate=learning_rate, seed=seed, batch_size=BATCH_SIZE
        ),
        keep="last",  # or the epoch would be chosen by what it is measured on
    )
    after = result.report.eval["after"]
    cpu = sum(device.cpu_seconds.get("train", 0.0) for device in result.report.devices)
    return {
        "accuracy": after["accuracy"],
        "f1": after["f1"],
        "epoch_cpu_seconds": round(cpu / max(1, epochs), 2),
    }


class _Lora:
    """LoRA on the same lines: AdamW, linear warm-up and decay, clipping at 1."""

    def __init__(self, checkpoint: Path, data: Path) -> None:
        import transformers

        self._checkpoint = checkpoint
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        self._data = {part: self._read(data / f"{part}.jsonl") for part in ("train", "dev")}

    def _read(self, path: Path) -> list[tuple[Any, int]]:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            (
                self._tokenizer(
                    row["text"], row["text_pair"], truncation=True, max_length=MAX_LENGTH
                ),
                int(row["label"]),
            )
            for row in rows
        ]

    def train(self, learning_rate: float, seed: int, epochs: int) -> Scores:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForSequenceClassification

        torch.manual_seed(seed)
        chance = random.Random(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            self._checkpoint, num_labels=2, dtype=torch.float32
        )
        shape = LoraConfig(
            r=8, lora_alpha=16, task_type="SEQ_CLS", target_modules=["query", "value"]
        )
        model = get_peft_model(model, shape)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01)
        steps = epochs * -(-len(self._data["train"]) // BATCH_SIZE)
        warmup = max(1, round(0.06 * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / (steps - warmup))),
        )
        model.train()
        for _ in range(epochs):
            for rows in self._batches(chance):
                model(**self._inputs(rows)).loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        return self._evaluate(model)

    def _batches(self, chance: random.Random) -> list[list[tuple[Any, int]]]:
        order = chance.sample(self._data["train"], len(self._data["train"]))
        batches = []
        for start in range(0, len(order), NEIGHBOURS):
            near = sorted(
                order[start : start + NEIGHBOURS], key=lambda row: len(row[0]["input_ids"])
            )
            batches += [near[at : at + BATCH_SIZE] for at in range(0, len(near), BATCH_SIZE)]
        chance.shuffle(batches)
        return batches

    def _inputs(self, rows: list[tuple[Any, int]]) -> dict[str, Any]:
        import torch

        padded = self._tokenizer.pad([inputs for inputs, _ in rows], return_tensors="pt")
        return {**padded, "labels": torch.tensor([label for _, label in rows])}

    def _evaluate(self, model: Any) -> Scores:
        import torch

        model.eval()
        dev = self._data["dev"]
        predicted: list[int] = []
        with torch.inference_mode():
            for start in range(0, len(dev), 32):
                logits = model(**self._inputs(dev[start : start + 32])).logits
                predicted += logits.argmax(1).tolist()
        pairs = list(zip(predicted, (label for _, label in dev), strict=True))
        hits = sum(p == label == 1 for p, label in pairs)
        errors = sum(p != label for p, label in pairs)
        return {
            "accuracy": 1 - errors / len(pairs),
            "f1": 2 * hits / max(1, 2 * hits + errors),
        }


if __name__ == "__main__":
    main()
