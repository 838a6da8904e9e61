"""Trains a tiny model for an hour while devices come and go, and tells what grew.

Example: python -m benchmarks.soak --minutes 60

Three emulated laptops; the first one stays, the others are killed and started again in turn, as
fast as the run takes notice. Resident memory, open files, sockets and threads of the coordinator
and of the first device are sampled, and how many processes there are. What a process holds in
the last quarter may not be more than what it held in the second, but for a little.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .faults.run import DEVICES, Run, RunError, Task

SAMPLE_SECONDS = 2.0
STAYS, *COME_AND_GO = DEVICES
MAY_GROW = {"megabytes": 0.05, "files": 0.05, "sockets": 0.05, "threads": 0.05, "processes": 0.0}
SLACK = {"megabytes": 8.0, "files": 4.0, "sockets": 4.0, "threads": 1.0, "processes": 1.0}


@dataclasses.dataclass(frozen=True)
class Held:
    """What a process holds at a moment; ``processes`` counts those of the whole run."""

    megabytes: float
    files: int
    sockets: int
    threads: int
    processes: int

    @classmethod
    def by(cls, pid: int, processes: int) -> Held:
        """Looks at a process."""
        folder = Path(f"/proc/{pid}")
        status = dict(
            line.split(":", 1) for line in (folder / "status").read_text().splitlines() if line
        )
        links = []
        for entry in (folder / "fd").iterdir():
            try:
                links.append(str(entry.readlink()))
            except OSError:  # closed meanwhile
                continue
        return cls(
            megabytes=int(status["VmRSS"].split()[0]) / 1000,
            files=len(links),
            sockets=sum(link.startswith("socket:") for link in links),
            threads=int(status["Threads"]),
            processes=processes,
        )


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="pacplus-soak-") as name:
        folder = Path(name)
        task = _tiny_task(folder)
        plan = _plan(task, folder)
        (folder / "soak").mkdir()
        with Run(task, folder / "soak", plan) as run:
            samples, changes = _soak(run, arguments.minutes * 60, arguments.seed)
            run.process.send_signal(signal.SIGINT)
            run.process.wait()
            left = run.left_behind()
    grown = list(_grown(samples))
    print(f"{changes} times a device went and came; {len(samples)} samples")
    for who in ("coordinator", STAYS):
        quarter = len(samples) // 4
        early, late = (_medians(samples, who, part) for part in (quarter, 3 * quarter))
        print(f"{who}: " + ", ".join(f"{k} {early[k]:.0f} -> {late[k]:.0f}" for k in early))
    for line in (*grown, *(f"left behind: {each}" for each in left)):
        print(line)
    print("not flat" if grown or left else "flat")
    sys.exit(bool(grown or left))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _tiny_task(folder: Path) -> Task:
    from export.bundle import export_model
    from tests.end_to_end.conftest import lines
    from tests.models import tiny_model_dir
    from tests.processes import write_jsonl

    bundle = folder / "bundle"
    export_model(str(tiny_model_dir(folder, "bert")), bundle, quantize="int8")
    every = lines(1200, 1)
    train = write_jsonl(folder / "train.jsonl", every[:1000])
    evaluation = write_jsonl(folder / "eval.jsonl", every[1000:])
    options = ("--batch-size", "16", "--reduction", "1", "--wait", "10m")
    return Task(bundle, train, evaluation, 100_000, options, limit_seconds=1e9)


def _plan(task: Task, folder: Path) -> Path:
    """A plan in which all devices take part."""
    from .faults.__main__ import shared_plan

    place = folder / "planned"
    place.mkdir()
    with Run(dataclasses.replace(task, epochs=1), place, None) as run:
        if run.finish():
            raise RunError(run.last_words())
        plan = json.loads((run.output / "plan.json").read_text())
    file = folder / "plan.json"
    file.write_text(json.dumps(shared_plan(plan, DEVICES)))
    return file


def _soak(run: Run, seconds: float, seed: int) -> tuple[list[dict[str, Held]], int]:
    """Kills devices and starts them again, until the time is over."""
    generator, samples = random.Random(seed), list[dict[str, Held]]()
    run.wait_for("epoch_finished", epoch=1)
    until = time.monotonic() + seconds
    for changes, device in enumerate(itertools.cycle(COME_AND_GO)):
        if time.monotonic() > until:
            return samples, changes
        number = generator.choice((signal.SIGKILL, signal.SIGTERM))
        joined = len(_joins(run, device))
        run.signal(device, number)
        _sample_until(run, samples, generator.uniform(0.0, 2 * SAMPLE_SECONDS))
        run.start_by_hand(device)
        run.wait_until(functools.partial(_has_joined, run, device, joined))
        _sample_until(run, samples, generator.uniform(0.0, 4 * SAMPLE_SECONDS))
    raise AssertionError


def _has_joined(run: Run, device: str, before: int) -> bool:
    return len(_joins(run, device)) > before


def _joins(run: Run, device: str) -> list[object]:
    return [e for e in run.events() if e["event"] == "device_joined" and e["device"] == device]


def _sample_until(run: Run, samples: list[dict[str, Held]], seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        processes = len(run.processes())
        pids = {"coordinator": run.process.pid, STAYS: run.pid_of(STAYS)}
        samples.append({who: Held.by(pid, processes) for who, pid in pids.items()})
        left = until - time.monotonic()
        if run.pause(max(0.0, min(left, SAMPLE_SECONDS))):
            raise RunError(f"ended: {run.last_words()}")
        if left <= SAMPLE_SECONDS:
            return


def _medians(samples: list[dict[str, Held]], who: str, first: int) -> dict[str, float]:
    """Medians over a quarter of the samples."""
    part = [dataclasses.asdict(each[who]) for each in samples[first : first + len(samples) // 4]]
    return {name: statistics.median(each[name] for each in part) for name in SLACK}


def _grown(samples: list[dict[str, Held]]) -> Iterator[str]:
    quarter = len(samples) // 4
    for who in ("coordinator", STAYS):
        early, late = (_medians(samples, who, first) for first in (quarter, 3 * quarter))
        for name, slack in SLACK.items():
            if late[name] > early[name] * (1 + MAY_GROW[name]) + slack:
                yield f"{who}: {name} grew from {early[name]:.0f} to {late[name]:.0f}"


if __name__ == "__main__":
    main()
