"""Fine-tunes MiniLM (int8) on SST-2 with one, two and three devices, and prints what it took.

Example: python benchmarks/sst2.py --data ../shared/data/sst2 --bundle minilm-int8

CPU-seconds are user + system of the device processes, summed over the devices; wall time
says little on a shared machine. Every cluster starts with an empty home; then the same
command is given again, which must compute nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from coordinator import AdapterChoice, Cluster, TrainingOptions, parse_emulate, train
from coordinator.runs.report import Report

TRAINING_LINES = 6000
CLUSTERS = {1: "", 2: "laptop,laptop", 3: "laptop,laptop,laptop"}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        data = _first_lines(arguments.data / "train.jsonl", Path(folder) / "train.jsonl")
        rows = []
        for count in arguments.devices:
            os.environ["PACPLUS_HOME"] = str(Path(folder) / f"home-{count}")
            first = _train(arguments, data, Path(folder) / f"{count}-first", CLUSTERS[count])
            rows.append(_row(count, first))
            print(json.dumps(rows[-1]), flush=True)
            if arguments.again:
                again = _train(arguments, data, Path(folder) / f"{count}-again", CLUSTERS[count])
                print(f"again: computed {again.fill.computed}, reused {again.fill.reused}")
    _print_table(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train and dev.jsonl")
    parser.add_argument("--bundle", type=Path, required=True, help="MiniLM, exported as int8")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapter", choices=("attention", "mlp"), default="attention")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 3], choices=CLUSTERS)
    parser.add_argument("--again", action="store_true", help="repeat each run with its cache")
    return parser.parse_args()


def _first_lines(source: Path, target: Path) -> Path:
    with source.open() as lines:
        target.write_text(
            "".join(line for line, _ in zip(lines, range(TRAINING_LINES), strict=False))
        )
    return target


def _train(arguments: argparse.Namespace, data: Path, run: Path, emulate: str) -> Report:
    result = train(
        arguments.bundle,
        data,
        evaluation=arguments.data / "dev.jsonl",
        output=run,
        cluster=Cluster(emulate=parse_emulate(emulate) if emulate else ()),
        adapter=AdapterChoice(kind=arguments.adapter),
        options=TrainingOptions(epochs=arguments.epochs, seed=arguments.seed),
        keep="last",  # or the epoch would be chosen by what it is measured on
    )
    return result.report


def _row(count: int, report: Report) -> dict[str, Any]:
    cpu = {
        phase: sum(device.cpu_seconds.get(phase, 0.0) for device in report.devices)
        for phase in ("fill", "train")
    }
    return {
        "devices": count,
        "trainers": sum(device.shards > 0 for device in report.devices),
        "fill_cpu_seconds": round(cpu["fill"], 2),
        "epoch_cpu_seconds": round(cpu["train"] / len(report.epochs), 2),
        "dev_accuracy": round(report.eval["after"]["accuracy"], 4),
        "train_losses": [round(epoch.train_loss, 5) for epoch in report.epochs],
        "cache_megabytes": round(report.cache.bytes / 1e6, 1),
        "peak_megabytes": [round(device.peak_rss_bytes / 1e6) for device in report.devices],
        "total_seconds": round(report.total_seconds, 1),
        "report": [dataclasses.asdict(device)["cpu_seconds"] for device in report.devices],
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    columns = ("devices", "trainers", "fill_cpu_seconds", "epoch_cpu_seconds", "dev_accuracy")
    print("| " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |")


if __name__ == "__main__":
    main()
