"""Trains with this version and with an earlier one in turns, and compares their CPU-seconds.

Example: git worktree add ../before b49f4b2
    python -m benchmarks.versions --before ../before --data ../shared/data/sst2/train.jsonl \
        --bundle minilm-int8 --out versions.jsonl

Each run is the whole command in an empty home, on this machine alone: start, fill and epochs.
CPU-seconds are user + system of all of its processes. Runs are in the order A B B A and added to
``--out`` when they are done; given again, the command goes on where it was stopped. Beside it a
file says the settings, and which versions are compared: results of others are refused.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.settings import check_settings

NOW, BEFORE = "now", "before"


def main() -> None:
    arguments = _arguments()
    checkouts = {NOW: Path(__file__).parents[1], BEFORE: arguments.before.resolve()}
    settings = _settings(arguments, checkouts)
    check_settings(arguments.out.with_suffix(".settings.json"), settings, arguments.out)
    done = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    rows = [json.loads(line) for line in done]
    for version in list((NOW, BEFORE, BEFORE, NOW) * arguments.rounds)[len(rows) :]:
        rows.append({"version": version, **_run(checkouts[version], arguments)})
        with arguments.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    _print_table(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the other version")
    parser.add_argument("--data", type=Path, required=True, help="JSONL to train on")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=6000, help="of the data, from its beginning")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1, help="of A B B A")
    parser.add_argument("--out", type=Path, required=True, help="JSONL of runs that are done")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace, checkouts: dict[str, Path]) -> dict[str, Any]:
    """What decides on the figures."""
    manifest = json.loads((arguments.bundle / "manifest.json").read_text(encoding="utf-8"))
    return {
        "data": hashlib.sha256(_lines(arguments).encode()).hexdigest()[:16],
        "lines": arguments.lines,
        "epochs": arguments.epochs,
        "model": manifest["model_id"],
        "quantization": manifest["quantization"],
        **{version: _revision(checkout) for version, checkout in checkouts.items()},
    }


def _revision(checkout: Path) -> str:
    """The commit; the folder where that is no checkout of git, or is a part of one."""
    if not (checkout / ".git").exists():
        return str(checkout)
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _lines(arguments: argparse.Namespace) -> str:
    with arguments.data.open(encoding="utf-8") as lines:
        return "".join(itertools.islice(lines, arguments.lines))


def _run(checkout: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "train.jsonl").write_text(_lines(arguments), encoding="utf-8")
        command = [sys.executable, "-m", "coordinator", "train", str(arguments.bundle.resolve())]
        command += ["--data", str(home / "train.jsonl"), "--epochs", str(arguments.epochs)]
        places = {"PYTHONPATH": str(checkout), "HOME": folder, "PACPLUS_HOME": folder}
        before = _cpu_seconds()
        subprocess.run(
            [*command, "-o", str(home / "run")],
            cwd=checkout,
            env={**os.environ, **places},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds = _cpu_seconds() - before
        report = json.loads((home / "run" / "report.json").read_text())
    (device,) = report["devices"]
    return {
        "cpu_seconds": round(seconds, 2),
        "fill": round(device["cpu_seconds"]["fill"], 2),
        "epochs": round(device["cpu_seconds"]["train"], 2),
        "peak_megabytes": round(device["peak_rss_bytes"] / 1e6),
        "losses": [each["train_loss"] for each in report["epochs"]],
    }


def _cpu_seconds() -> float:
    """Of all children that have ended, and of theirs that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _print_table(rows: list[dict[str, Any]]) -> None:
    print("| version | CPU-s in all | fill | epochs | peak MB | loss, first and last epoch |")
    print("|---|---|---|---|---|---|")
    for version in (BEFORE, NOW):
        of_version = [row for row in rows if row["version"] == version]
        names = ("cpu_seconds", "fill", "epochs", "peak_megabytes")
        columns = [", ".join(str(row[name]) for row in of_version) for name in names]
        losses = of_version[0]["losses"] if of_version else [0.0]
        print(f"| {version} | {' | '.join(columns)} | {losses[0]:.5f}, {losses[-1]:.5f} |")
    means = {
        version: sum(row["cpu_seconds"] for row in rows if row["version"] == version)
        for version in (NOW, BEFORE)
    }
    if means[BEFORE]:
        print(f"\nnow / before: {means[NOW] / means[BEFORE]:.3f}")


if __name__ == "__main__":
    main()
