"""Plays many histories: ``python -m tests.faults --histories 5000 [--first 0] [--jobs 2]``."""

import argparse
import collections
import logging
import multiprocessing
import sys
import time
import traceback

from tests.faults.history import Fault, History, draw_history, play
from tests.faults.mutants import MUTANTS


def failing(history: History) -> str | None:
    """Where and how it fails; None if everything holds."""
    try:
        play(history)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
        return f"{type(error).__name__} {where}: {str(error)[:140]}"
    return None


def _outcome(seed: int) -> tuple[int, str | None, str]:
    history = draw_history(seed)
    try:
        lab = play(history)
    except Exception:
        return seed, failing(history), "failed"
    return seed, None, f"{lab.session.phase} {type(lab.failure).__name__}" if lab.failure else "ok"


def shrunk(history: History) -> History:
    """Leaves faults out as long as it still fails."""
    faults: tuple[Fault, ...] = history.faults
    for fault in history.faults:
        fewer = tuple(each for each in faults if each is not fault)
        if failing(History(history.seed, fewer)):
            faults = fewer
    return History(history.seed, faults)


def _find_mutants(seeds: range, only: list[str]) -> int:
    """Prints the first history that finds each mutant, and what it says."""
    missed = 0
    for name, mutant in MUTANTS.items():
        if only and name not in only:
            continue
        with mutant():
            said = ((seed, failing(draw_history(seed))) for seed in seeds)
            seed, failure = next(((seed, text) for seed, text in said if text), (None, "not found"))
        missed += seed is None
        print(f"{name:28} {seed!s:>6}  {failure}", flush=True)
    return bool(missed)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mutants", action="store_true", help="name who finds each of them")
    parser.add_argument("--only", nargs="*", help="of the mutants these")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if args.mutants:
        return _find_mutants(range(args.first, args.first + args.histories), args.only)
    began = time.monotonic()
    seeds = range(args.first, args.first + args.histories)
    found: dict[str, list[int]] = collections.defaultdict(list)
    ends: collections.Counter[str] = collections.Counter()
    with multiprocessing.Pool(args.jobs) as pool:
        for seed, failure, end in pool.imap_unordered(_outcome, seeds, chunksize=20):
            ends[end] += 1
            if failure:
                found[failure].append(seed)
    for failure, failed in sorted(found.items(), key=lambda item: -len(item[1])):
        least = min(
            (shrunk(draw_history(seed)) for seed in failed[:5]), key=lambda h: len(h.faults)
        )
        print(f"{len(failed)} x {failure}\n    {least}")
    print(f"{args.histories} histories in {time.monotonic() - began:.1f} s: {dict(ends)}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
