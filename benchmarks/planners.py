"""Runs the same work as planned by pacplus and as other systems would place it, and measures.

Example: python benchmarks/planners.py --bundle minilm-int8 --data SST2/train.jsonl --lines 2000
    --emulate laptop:cpu=0.8,raspberry-pi-5:cpu=0.4,jetson-nano:cpu=0.2,jetson-nano:cpu=0.2

The devices are measured once; each plan is then run with empty caches. Measured is the time
of the fill and of the epochs; what a plan predicts is that and the peak memory of each device.
With --only-ours it shows how true the predictions of the chosen plan are.

With --compare-measuring, pacplus's plan is made twice, each time for devices that nobody has seen:
from what is measured by default, and from all that `pacplus plan --measure` does. Both run in turns
(A B B A ...), --times each, with empty caches; an uncounted run of each sends the weights first.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from coordinator import Cluster, TrainingOptions, parse_emulate, train
from coordinator.api.plan import PlanResult, plan
from coordinator.runs.report import Report
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.structure import to_plain

OURS = "pacplus"
DEFAULT, THOROUGH = "by default", "thoroughly"
LINES, FEW_LINES = 2000, 600


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lines = arguments.lines or (FEW_LINES if arguments.compare_measuring else LINES)
        data = _first_lines(arguments.data, work / "train.jsonl", lines)
        if arguments.compare_measuring:
            _compare_measuring(arguments, data, work)
        else:
            _compare_planners(arguments, data, work)


def _compare_planners(arguments: argparse.Namespace, data: Path, work: Path) -> None:
    options = TrainingOptions(epochs=arguments.epochs)
    rows: list[dict[str, Any]] = []
    for mix in arguments.emulate:
        os.environ["PACPLUS_HOME"] = str(work / f"home-{len(rows)}")
        cluster = Cluster(emulate=parse_emulate(mix))
        planned = plan(arguments.bundle, data, cluster=cluster, options=options)
        for name, chosen in _plans(planned, only_ours=arguments.only_ours).items():
            for _ in range(arguments.times if chosen else 1):
                row: dict[str, Any] = {"devices": mix, "planner": name}
                if chosen is None:
                    row["error"] = "does not fit"
                else:
                    run = work / f"run-{len(rows)}"
                    os.environ["PACPLUS_HOME"] = str(work / f"home-{len(rows)}-run")
                    row |= _run(arguments.bundle, data, run, cluster, options, chosen)
                rows.append(row)
                print(json.dumps(row), flush=True)
    _print_table(rows)


def _compare_measuring(arguments: argparse.Namespace, data: Path, work: Path) -> None:
    options = TrainingOptions(epochs=arguments.epochs)
    found = []
    for index, mix in enumerate(arguments.emulate):
        cluster, plans = Cluster(emulate=parse_emulate(mix)), {}
        rows: dict[str, list[dict[str, Any]]] = {DEFAULT: [], THOROUGH: []}
        for name in rows:
            os.environ["PACPLUS_HOME"] = str(work / f"home-{index}-{name}")
            measured = dataclasses.replace(cluster, thorough=name == THOROUGH)
            began = time.monotonic()
            plans[name] = plan(arguments.bundle, data, cluster=measured, options=options).plan
            print(f"{mix}: planned {name} in {time.monotonic() - began:.1f} s", flush=True)
        home = os.environ["PACPLUS_HOME"] = str(work / f"home-{index}-runs")
        counted = itertools.cycle((DEFAULT, THOROUGH, THOROUGH, DEFAULT))
        turns = (DEFAULT, THOROUGH, *itertools.islice(counted, 2 * arguments.times))
        for turn, name in enumerate(turns):
            for cache in Path(home).glob("emulated/*/cache"):
                shutil.rmtree(cache)
            run = work / f"run-{index}-{turn}"
            row = _run(arguments.bundle, data, run, cluster, options, plans[name])
            if turn < len(rows):
                continue
            rows[name].append(row)
            print(json.dumps({"devices": mix, "measured": name, **row}), flush=True)
        found.append((mix, rows))
    _print_measuring(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="JSONL to train on")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--emulate", action="append", required=True, help="devices; repeatable")
    parser.add_argument("--lines", type=int, help="of the data, from its beginning")
    parser.add_argument(
        "--compare-measuring", action="store_true", help="plans of brief and of thorough measuring"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="runs of each plan")
    parser.add_argument("--only-ours", action="store_true", help="run no other system's plan")
    return parser.parse_args()


def _first_lines(source: Path, target: Path, count: int) -> Path:
    with source.open(encoding="utf-8") as lines:
        target.write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
    return target


def _plans(planned: PlanResult, *, only_ours: bool) -> dict[str, Plan | None]:
    others = {} if only_ours else {each.name: each.plan for each in planned.alternatives}
    return {OURS: planned.plan, **others}


def _run(
    bundle: Path, data: Path, run: Path, cluster: Cluster, options: TrainingOptions, chosen: Plan
) -> dict[str, Any]:
    file = run.with_suffix(".json")
    file.write_text(json.dumps(to_plain(chosen)), encoding="utf-8")
    report = train(bundle, data, output=run, cluster=cluster, options=options, plan=file).report
    return _row(report, chosen)


def _row(report: Report, chosen: Plan) -> dict[str, Any]:
    predicted = chosen.predicted
    assert predicted is not None
    epochs = [epoch.seconds for epoch in report.epochs]
    total = report.fill.seconds + sum(epochs)
    memory = {
        device.id: (round(device.peak_rss_bytes / 1e6), round(need.memory_bytes / 1e6))
        for device in report.devices
        if (need := predicted.devices.get(device.id)) is not None
    }
    return {
        "stages": [
            [stage.first, stage.last, {m.device: round(m.share, 3) for m in stage.devices}]
            for stage in chosen.stages
        ],
        "owners": {owner.device: len(owner.shards) for owner in chosen.owners},
        "micro_batch": chosen.micro_batch_size,
        "dilation": round(report.dilation, 2),
        "fill": [round(report.fill.seconds, 2), round(predicted.fill_seconds, 2)],
        "epoch": [round(sum(epochs) / len(epochs), 2), round(predicted.epoch_seconds, 2)],
        "total": [round(total, 2), round(predicted.total_seconds, 2)],
        "error": f"{100 * (predicted.total_seconds / total - 1):+.1f} %",
        "memory_megabytes": memory,
        "memory_over": f"{max(100 * (peak / need - 1) for peak, need in memory.values()):+.1f} %",
        "cpu": {d.id: dict(d.cpu_seconds) for d in report.devices},
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    print("| devices | planner | measured s | predicted s | error | memory at most over |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        measured, predicted = row.get("total", ("", ""))
        cells = (row["devices"], row["planner"], measured, predicted, row["error"])
        print("| " + " | ".join(map(str, (*cells, row.get("memory_over", "")))) + " |")


def _print_measuring(found: list[tuple[str, dict[str, list[dict[str, Any]]]]]) -> None:
    print("\n| devices | measured | each total, s | mean | predicted s | mean ratio | median |")
    print("|---|---|---|---|---|---|---|")
    ratios = []
    for mix, rows in found:
        totals = {name: [row["total"][0] for row in each] for name, each in rows.items()}
        of_means = statistics.mean(totals[DEFAULT]) / statistics.mean(totals[THOROUGH])
        of_medians = statistics.median(totals[DEFAULT]) / statistics.median(totals[THOROUGH])
        ratios.append(of_means)
        for name, each in rows.items():
            taken = ", ".join(map(str, totals[name]))
            mean, predicted = statistics.mean(totals[name]), each[0]["total"][1]
            ratio = f"{of_means:.3f} | {of_medians:.3f}" if name == DEFAULT else " | "
            print(f"| {mix} | {name} | {taken} | {mean:.2f} | {predicted} | {ratio} |")
    print(
        f"\nlargest ratio of means: {max(ratios):.3f}, mean of all: {statistics.mean(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
