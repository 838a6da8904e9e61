"""Fine-tunes a language model on gsm8k and prints what happens to the held-out loss.

Example: python benchmarks/gsm8k.py --data ../shared/data/gsm8k --bundle smollm2-int8 --lora MODEL

The loss is of the completion, in nats a token. The adapter is trained by two emulated laptops
that must cut the backbone between them. With --lora the same lines are given to LoRA (peft,
r = 8 on all linear layers) on the checkpoint that the bundle was exported from, in fp32.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH_SIZE = 16
LORA_MICRO_BATCH = 8
Row = tuple[list[int], int]
"""Token ids of a line, and where its completion begins."""


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.bundle:
            home = arguments.home or Path(folder) / "home"
            os.environ["PACPLUS_HOME"] = str(home)
            _train_adapter(arguments, Path(folder))
        if arguments.lora:
            _Lora(arguments).train()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train and dev.jsonl")
    parser.add_argument("--bundle", type=Path, help="the model, exported for causal-lm")
    parser.add_argument("--lora", type=Path, help="its checkpoint: measures LoRA")
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--dev-lines", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--reduction", type=int, default=8)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--loss", choices=("candidates", "exact"), default="candidates")
    parser.add_argument("--lora-learning-rate", type=float, default=3e-4)
    parser.add_argument("--emulate", default="laptop:memory=900M,laptop:memory=900M")
    parser.add_argument("--home", type=Path, help="keeps the cache for another run")
    return parser.parse_args()


def _train_adapter(arguments: argparse.Namespace, folder: Path) -> None:
    from coordinator import AdapterChoice, Cluster, TrainingOptions, parse_emulate, train

    data = {"train": arguments.lines, "dev": arguments.dev_lines}
    files = {part: folder / f"{part}.jsonl" for part in data}
    for part, count in data.items():
        with (arguments.data / f"{part}.jsonl").open(encoding="utf-8") as lines:
            files[part].write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
    report = train(
        arguments.bundle,
        files["train"],
        evaluation=files["dev"],
        output=folder / "run",
        cluster=Cluster(emulate=parse_emulate(arguments.emulate)),
        adapter=AdapterChoice(reduction=arguments.reduction, num_heads=arguments.heads),
        options=TrainingOptions(
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            batch_size=BATCH_SIZE,
            loss=arguments.loss,
        ),
    ).report
    row = {
        "method": "adapter",
        "loss": report.loss,
        "before": report.eval["before"],
        "after": report.eval["after"],
        "parameters": report.parameters,
        "stages": [[stage.first, stage.last] for stage in report.plan.stages],
        "peak_megabytes": {d.id: round(d.peak_rss_bytes / 1e6) for d in report.devices},
        "cpu_seconds": {d.id: dict(d.cpu_seconds) for d in report.devices},
        "train_losses": [round(epoch.train_loss, 4) for epoch in report.epochs],
    }
    print(json.dumps(row), flush=True)


class _Lora:
    """AdamW, linear warm-up and decay, clipping at 1; a batch's loss is its tokens' mean."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch
        import transformers
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        self._arguments = arguments
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.lora)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            arguments.lora, dtype=torch.float32
        )
        self._backbone, self._head = model.model, model.lm_head
        self._train = self._read("train", arguments.lines)
        self._dev = self._read("dev", arguments.dev_lines)
        shape = LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", target_modules="all-linear")
        self._model = get_peft_model(model, shape)  # changes the backbone's modules in place

    def _read(self, part: str, count: int) -> list[Row]:
        rows = []
        with (self._arguments.data / f"{part}.jsonl").open(encoding="utf-8") as lines:
            for line in itertools.islice(lines, count):
                row = json.loads(line)
                prompt, completion = (
                    self._tokenizer.encode(row[name], add_special_tokens=False)
                    for name in ("prompt", "completion")
                )
                ids = [*prompt, *completion, self._tokenizer.eos_token_id]
                rows.append((ids, len(prompt)))
        return rows

    def train(self) -> None:
        import torch

        arguments, rows = self._arguments, self._train
        weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=arguments.lora_learning_rate, weight_decay=0.0)
        steps = arguments.epochs * -(-len(rows) // BATCH_SIZE)
        warmup = max(1, round(0.06 * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / (steps - warmup))),
        )
        self._print(0)
        for epoch in range(arguments.epochs):
            order = random.Random(epoch).sample(rows, len(rows))
            for start in range(0, len(order), BATCH_SIZE):
                self._backward(order[start : start + BATCH_SIZE])
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            self._print(epoch + 1)

    def _backward(self, rows: list[Row]) -> None:
        rows = sorted(rows, key=lambda row: len(row[0]))
        counted = sum(len(ids) - start for ids, start in rows)
        for at in range(0, len(rows), LORA_MICRO_BATCH):
            loss, _ = self._loss(rows[at : at + LORA_MICRO_BATCH])
            (loss / counted).backward()

    def _print(self, epoch: int) -> None:
        import torch

        total = count = 0.0
        dev = sorted(self._dev, key=lambda row: len(row[0]))
        with torch.inference_mode():
            for at in range(0, len(dev), LORA_MICRO_BATCH):
                loss, tokens = self._loss(dev[at : at + LORA_MICRO_BATCH])
                total, count = total + float(loss), count + tokens
        cpu_seconds = round(time.process_time(), 1)
        row = {"method": "LoRA", "epoch": epoch, "loss": total / count, "cpu_seconds": cpu_seconds}
        print(json.dumps(row), flush=True)

    def _loss(self, rows: list[Row]) -> tuple[Any, int]:
        """Summed over the completions' tokens, and their number."""
        import torch

        longest = max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for place, (tokens, start) in enumerate(rows):
            ids[place, : len(tokens)] = torch.tensor(tokens)
            mask[place, : len(tokens)] = 1
            labels[place, start : len(tokens)] = torch.tensor(tokens[start:])
        hidden = self._backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = labels[:, 1:] != -100
        logits = self._head(hidden[:, :-1][counted])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][counted], reduction="sum")
        return loss, int(counted.sum())


if __name__ == "__main__":
    main()
