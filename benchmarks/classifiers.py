"""Trains a classifier by an adapter, by LoRA and by full fine-tuning, and compares them.

Example: python -m benchmarks.classifiers --data ../shared/data/mrpc --bundle minilm \
    --checkpoint MINILM

All get the same lines, epochs and batch size. The learning rate of each method is the one of its
grid with which the first seed is most accurate on the held-out lines; the other seeds follow.
LoRA (peft, r = 8 on queries and values) and full fine-tuning are of the checkpoint that the
bundle was exported from, in fp32, and need ``peft``. F1 is of the label "1". CPU-seconds are user
+ system, without evaluation: of the adapter the fill and its epochs, of the others their epochs.
Each line is printed when it is done, as JSON; at the end come means, and what the others cost of
the adapter's CPU-seconds. Only to compare cost: one rate, one seed and one epoch of the others
(``--methods lora full --epochs 1``) are enough, since each costs the same.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .torch_baselines import Scores, TorchBaseline

BATCH_SIZE = 16
GRIDS = {
    "adapter": (5e-4, 1e-3, 2e-3),
    "lora": (5e-4, 1e-3, 2e-3),
    "full": (2e-5, 5e-5, 1e-4),
}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PACPLUS_HOME"] = str(folder / "home")
        files = {"train": folder / "train.jsonl", "dev": folder / "dev.jsonl"}
        for part, path in files.items():
            count = arguments.lines if part == "train" else None
            with (arguments.data / path.name).open(encoding="utf-8") as lines:
                path.write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
        means = {}
        for method in arguments.methods:
            if method == "adapter":
                train: Callable[[float, int, int], Scores] = functools.partial(
                    _adapter, arguments, files, itertools.count()
                )
            else:
                train = TorchBaseline(method, arguments.checkpoint, files, BATCH_SIZE).train
            means[method] = _measure(method, arguments, train)
        _print_ratios(means, arguments.epochs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train and dev.jsonl")
    parser.add_argument("--bundle", type=Path, help="exported for classification")
    parser.add_argument("--checkpoint", type=Path, help="folder that it was exported from")
    parser.add_argument("--methods", nargs="+", choices=tuple(GRIDS), default=tuple(GRIDS))
    parser.add_argument("--lines", type=int, help="of train.jsonl, from its beginning")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--adapter", choices=("attention", "mlp"), default="attention")
    parser.add_argument("--cache-dtype", choices=("auto", "fp32", "fp16", "int8"), default="auto")
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", help="instead of each method's own grid"
    )
    arguments = parser.parse_args()
    if "adapter" in arguments.methods and not arguments.bundle:
        parser.error("the adapter needs --bundle; choose other --methods without it")
    if {"lora", "full"} & set(arguments.methods) and not arguments.checkpoint:
        parser.error("LoRA and full fine-tuning need --checkpoint; or give --methods adapter")
    return arguments


def _measure(
    method: str, arguments: argparse.Namespace, train: Callable[[float, int, int], Scores]
) -> Scores:
    def run(learning_rate: float, seed: int) -> Scores:
        scores = train(learning_rate, seed, arguments.epochs)
        line = {"method": method, "learning_rate": learning_rate, "seed": seed, **scores}
        print(json.dumps(line), flush=True)
        return scores

    first, *others = arguments.seeds
    grid = {rate: run(rate, first) for rate in arguments.learning_rates or GRIDS[method]}
    best = max(grid, key=lambda rate: grid[rate]["accuracy"])
    results = [grid[best], *(run(best, seed) for seed in others)]
    means = {
        name: round(sum(result[name] for result in results) / len(results), 4)
        for name in results[0]
    }
    # Only the first training had to fill the cache.
    means["fill_cpu_seconds"] = max(result.get("fill_cpu_seconds", 0.0) for result in grid.values())
    print(f"{method}: learning rate {best:g}, mean of {len(results)} seeds: {means}", flush=True)
    return means


def _print_ratios(means: dict[str, Scores], epochs: int) -> None:
    if "adapter" not in means:
        return
    totals = {
        method: scores["fill_cpu_seconds"] + epochs * scores["epoch_cpu_seconds"]
        for method, scores in means.items()
    }
    for method, total in totals.items():
        print(
            f"{method}: {epochs} epochs in {total:.1f} CPU-s, "
            f"{total / totals['adapter']:.1f} times the adapter's"
        )


def _adapter(
    arguments: argparse.Namespace,
    files: dict[str, Path],
    number: itertools.count[int],
    learning_rate: float,
    seed: int,
    epochs: int,
) -> Scores:
    from coordinator import AdapterChoice, TrainingOptions, train

    report = train(
        arguments.bundle,
        files["train"],
        evaluation=files["dev"],
        output=files["train"].parent / f"run-{next(number)}",
        adapter=AdapterChoice(kind=arguments.adapter),
        options=TrainingOptions(
            epochs=epochs, learning_rate=learning_rate, seed=seed, batch_size=BATCH_SIZE
        ),
        cache_dtype=arguments.cache_dtype,
        keep="last",  # or the epoch would be chosen by what it is measured on
    ).report
    after = report.eval["after"]
    cpu = {
        phase: sum(device.cpu_seconds.get(phase, 0.0) for device in report.devices)
        for phase in ("fill", "train")
    }
    return {
        "accuracy": round(after["accuracy"], 4),
        **({"f1": round(after["f1"], 4)} if "f1" in after else {}),
        "epoch_cpu_seconds": round(cpu["train"] / max(1, epochs), 2),
        "fill_cpu_seconds": round(cpu["fill"], 2),
    }


if __name__ == "__main__":
    main()
