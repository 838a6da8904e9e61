"""Fine-tunes a classifier by PyTorch: all weights, or LoRA by peft.

AdamW, linear warm-up and decay, clipping at 1, batches of texts of like length.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any, TypeAlias

Scores: TypeAlias = dict[str, float]

MAX_LENGTH = 128
NEIGHBOURS = 256
"""Samples that are sorted by length before batches are cut, to save padding."""


class TorchBaseline:
    """Trainings of one method on the same lines."""

    def __init__(
        self, method: str, checkpoint: Path, files: dict[str, Path], batch_size: int
    ) -> None:
        """Reads the lines.

        Args:
            method: ``full`` or ``lora``.
            checkpoint: folder of the model, as Hugging Face saves it.
            files: ``train`` and ``dev``, JSONL with ``text``, ``label`` and maybe ``text_pair``.
            batch_size: samples of a batch.
        """
        import transformers

        self._method, self._checkpoint, self._batch_size = method, checkpoint, batch_size
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        texts = {
            part: [json.loads(line) for line in path.open(encoding="utf-8")]
            for part, path in files.items()
        }
        self._labels = sorted({row["label"] for row in texts["train"]})
        self._data = {part: [self._sample(row) for row in rows] for part, rows in texts.items()}

    def _sample(self, row: dict[str, str]) -> tuple[Any, int]:
        texts = [row["text"], *([row["text_pair"]] if "text_pair" in row else [])]
        inputs = self._tokenizer(*texts, truncation=True, max_length=MAX_LENGTH)
        return inputs, self._labels.index(row["label"])

    def train(self, learning_rate: float, seed: int, epochs: int) -> Scores:
        """Trains and evaluates once."""
        import torch

        torch.set_num_threads(1)  # several wait for each other in loops, which counts as work
        torch.manual_seed(seed)
        chance = random.Random(seed)
        model = self._model()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01)
        steps = epochs * -(-len(self._data["train"]) // self._batch_size)
        warmup = max(1, round(0.06 * steps))
        decay = max(1, steps - warmup)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / decay)),
        )
        model.train()
        began = time.process_time()
        for _ in range(epochs):
            for rows in self._batches(chance):
                model(**self._inputs(rows)).loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        seconds = time.process_time() - began
        return {**self._evaluate(model), "epoch_cpu_seconds": round(seconds / max(1, epochs), 2)}

    def _model(self) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(
            self._checkpoint, num_labels=len(self._labels), dtype=torch.float32
        )
        if self._method == "full":
            return model
        shape = LoraConfig(
            r=8, lora_alpha=16, task_type="SEQ_CLS", target_modules=["query", "value"]
        )
        return get_peft_model(model, shape)

    def _batches(self, chance: random.Random) -> list[list[tuple[Any, int]]]:
        order = chance.sample(self._data["train"], len(self._data["train"]))
        batches = []
        for start in range(0, len(order), NEIGHBOURS):
            near = sorted(
                order[start : start + NEIGHBOURS], key=lambda row: len(row[0]["input_ids"])
            )
            batches += [
                near[at : at + self._batch_size] for at in range(0, len(near), self._batch_size)
            ]
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
        scores = {"accuracy": sum(p == label for p, label in pairs) / len(pairs)}
        if self._labels == ["0", "1"]:
            hits = sum(p == label == 1 for p, label in pairs)
            scores["f1"] = 2 * hits / max(1, sum(p + label for p, label in pairs))
        return {name: round(score, 4) for name, score in scores.items()}
