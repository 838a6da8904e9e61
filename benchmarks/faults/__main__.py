"""Does one fault to each of many runs on real processes, and prints what that cost.

Example: python -m benchmarks.faults --runs 64 --seed 0 --out table.json

Three emulated laptops, which all train, fine-tune MiniLM on 1,000 lines of SST-2. Finished runs
are kept in --out, so that the same command goes on where it was stopped. In a folder beside it
are the devices' measurements, the run without a fault, and the folders of runs that went wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .kinds import KINDS, LATECOMER, Kind, now
from .moment import Moment, Undisturbed
from .outcome import judge, losses_of, measure
from .run import DEVICES, ROOT, Run, RunError, Task
from .table import table

Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows: list[Row] = found.get("rows", [])
    laboratory = Laboratory(arguments)
    for number in range(arguments.runs):
        if number in {row["number"] for row in rows}:
            continue
        kind = laboratory.kinds[number % len(laboratory.kinds)]
        rows.append(laboratory.disturb(number, kind))
        print(json.dumps(rows[-1]), flush=True)
        arguments.out.write_text(json.dumps({"rows": rows}, indent=1))
    print(table(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON; finished runs are skipped")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/sst2")
    parser.add_argument("--bundle", type=Path, help="MiniLM, exported; made where it is left out")
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", help="words of the kinds wanted", default=[""])
    return parser.parse_args()


class Laboratory:
    """Has what all runs share: data, bundle, measured devices, and the run without a fault."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Runs twice without a fault: first as the planner wants, which gives a plan to edit."""
        self.folder = folder = arguments.out.with_suffix("").resolve()
        self.seed = arguments.seed
        folder.mkdir(parents=True, exist_ok=True)
        wanted = arguments.kinds
        self.kinds = [
            kind for kind in KINDS if any(word.lower() in kind.name.lower() for word in wanted)
        ]
        train = folder / "train.jsonl"
        with (arguments.data / "train.jsonl").open() as lines:
            train.write_text("".join(itertools.islice(lines, arguments.lines)))
        bundle = (arguments.bundle or _export(folder / "bundle")).resolve()
        evaluation = (arguments.data / "dev.jsonl").resolve()
        self.task = Task(bundle, train, evaluation, arguments.epochs)
        self.home = folder / "home"
        self._plans = {late: folder / f"plan{'-late' * late}.json" for late in (False, True)}
        self.undisturbed = self._prepare()
        print(json.dumps(dataclasses.asdict(self.undisturbed)), flush=True)

    def _prepare(self) -> Undisturbed:
        """Measures the devices, makes the plans and runs without a fault, unless that was done."""
        file = self.folder / "undisturbed.json"
        if not file.exists():
            shutil.rmtree(self.home, ignore_errors=True)
            plan = self._first_plan()
            for late, path in self._plans.items():
                devices = [device for device in DEVICES if not late or device != LATECOMER]
                path.write_text(json.dumps(shared_plan(plan, devices)))
            file.write_text(json.dumps(dataclasses.asdict(self._undisturbed())))
        return Undisturbed(**json.loads(file.read_text()))

    def _first_plan(self) -> dict[str, Any]:
        place = self._place("measured")
        with Run(self.task, place, None) as run:
            if run.finish():
                raise RunError(f"the planner's own run failed: {run.last_words()}")
        self._keep_home(run)
        plan: dict[str, Any] = json.loads((place / "run/plan.json").read_text())
        return plan

    def _keep_home(self, run: Run) -> None:
        """Keeps what was measured, without what was cached."""
        shutil.copytree(run.home, self.home)
        for cache in self.home.glob("emulated/*/cache"):
            shutil.rmtree(cache)

    def _place(self, name: str) -> Path:
        """A folder for a run, with a home that knows the devices' measurements."""
        place: Path = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if self.home.exists():
            shutil.copytree(self.home, place / "home")
        return place

    def _undisturbed(self) -> Undisturbed:
        place = self._place("undisturbed")
        with Run(self.task, place, self._plans[False]) as run:
            if run.finish():
                raise RunError(f"the run without a fault failed: {run.last_words()}")
            events = run.events()
            report = json.loads((run.output / "report.json").read_text())
            seconds = [e["seconds"] for e in events if e["event"] == "epoch_finished"]
            samples = next(e["samples"] for e in events if e["event"] == "steps_applied")
            evaluated = _lines(self.task)
            return Undisturbed(
                losses=losses_of(events),
                accuracy=report["eval"]["after"]["accuracy"],
                epoch_seconds=sum(seconds) / len(seconds),
                cached_bytes=round(run.cached_bytes() * samples / (samples + evaluated)),
                samples=samples,
                evaluated=evaluated,
            )

    def disturb(self, number: int, kind: Kind) -> Row:
        """Runs once, with a fault."""
        generator = random.Random(f"{self.seed}/{number}")
        phase = generator.choice(("fill", "training")) if kind.phase == "any" else kind.phase
        moment = Moment.draw(generator, self.task.epochs, phase)
        device = LATECOMER if kind.latecomer else generator.choice(DEVICES)
        row: Row = {"number": number, "kind": kind.name, "moment": str(moment), "device": device}
        place = self._place(f"run-{number}")
        with Run(self.task, place, self._plans[kind.latecomer]) as run:
            try:
                kind.prepare(run)
                moment.wait(run, self.undisturbed)
                began = now()
                kind.do(run, device)
                code = run.finish()
                row |= measure(run, began)
                row["wrong"] = judge(run, code, self.undisturbed, row["again"])
            except RunError as error:
                row["wrong"] = [str(error)]
        if row["wrong"]:
            for big in ("cache", "weights"):
                for folder in (place / "home").glob(f"emulated/*/{big}"):
                    shutil.rmtree(folder)
        else:
            shutil.rmtree(place)
        return row


def shared_plan(plan: dict[str, Any], devices: Sequence[str]) -> dict[str, Any]:
    """Changes a plan so that all devices compute all blocks, and all train."""
    count, last = len(devices), plan["stages"][-1]["last"]
    parts = [{"device": device, "share": 1 / count} for device in devices]
    owners = [
        {"device": device, "shards": list(range(plan["num_shards"]))[number::count]}
        for number, device in enumerate(devices)
    ]
    kept = {name: value for name, value in plan.items() if name != "predicted"}
    return {
        **kept,
        "stages": [{"first": 0, "last": last, "devices": parts}],
        "owners": owners,
    }


def _lines(task: Task) -> int:
    with task.evaluation.open() as lines:
        return sum(1 for _ in lines)


def _export(folder: Path) -> Path:
    from export.bundle import export_model
    from tests.minilm import minilm_dir

    if not folder.exists():
        export_model(str(minilm_dir()), folder)
    return folder


if __name__ == "__main__":
    main()
