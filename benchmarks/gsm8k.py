"""Trains a language model by a side network and by LoRA, and compares loss and cost.

Example: python -m benchmarks.gsm8k --data ../shared/data/gsm8k --bundle smollm2-int8 \
    --lora SMOLLM2 --out gsm8k-500

Both get the same lines, batches and held-out lines; losses are of what is to be written, in nats
a token. The side network is trained by pacplus on this machine alone, over candidates and over
the whole vocabulary; LoRA (peft, r = 8 on all linear layers) on the checkpoint that the bundle
was exported from, in fp32. ``--out`` gets results.jsonl, to which every run and point is added
at once: given again, the command goes on where it was stopped. At the end it prints the table
and draws curve.svg, the held-out loss against CPU-seconds. ``--data`` may be gsm8k, instructions
or tinyshakespeare; ``--fewer-lines 32 64 128 256`` trains the side network on fewer lines too,
for smaller budgets; ``--random-head 150000`` measures the cost of such a head alone.

For a first look: --lines 100 --dev-lines 60 --seeds 0. LoRA needs ``peft``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from .language_models.lines import tables, write_lines
from .language_models.results import Results, Row
from .settings import check_settings


def main() -> None:
    arguments = _arguments()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PACPLUS_HOME"] = str(out / "home")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _check_settings(arguments)
    files = _write_lines(arguments, arguments.lines, out)
    results = Results(out / "results.jsonl")
    if arguments.only in (None, "head"):
        _measure_heads(arguments, files, results)
    if arguments.only in (None, "side"):
        _train_side_networks(arguments, files, results)
        _train_on_fewer_lines(arguments, results)
    if arguments.lora and arguments.only in (None, "lora"):
        _train_lora(arguments, files, results)
    from .language_models.summary import summary

    text, drawing = summary(results.rows)
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "curve.svg").write_text(drawing, encoding="utf-8")
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--bundle", type=Path, required=True, help="exported for causal-lm")
    parser.add_argument("--lora", type=Path, help="its checkpoint, a folder or a GGUF file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", choices=("side", "lora", "head", "report"))
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--dev-lines", type=int, default=150)
    parser.add_argument("--max-length", type=int, help="most tokens of a line")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", default=["candidates", "exact"])
    parser.add_argument(
        "--fewer-lines",
        type=int,
        nargs="*",
        default=[],
        help="first lines to train on besides, for smaller budgets of CPU-seconds",
    )
    kinds = ("attention", "mlp", "pointer")
    parser.add_argument("--adapter", choices=kinds, default="pointer")
    parser.add_argument("--reduction", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--lora-rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--lora-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lora-epochs", type=int, default=3)
    parser.add_argument(
        "--lora-points", type=int, default=5, help="held-out losses of its first epoch"
    )
    parser.add_argument("--random-head", type=int, help="tokens of a head to measure the cost of")
    return parser.parse_args()


def _check_settings(arguments: argparse.Namespace) -> None:
    """Refuses a folder of results that other lines or another model led to."""
    names = ("lines", "dev_lines", "max_length", "batch_size")
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    manifest = json.loads((arguments.bundle / "manifest.json").read_text(encoding="utf-8"))
    settings |= {"data": arguments.data.resolve().name, "model": manifest["model_id"]}
    out: Path = arguments.out
    check_settings(out / "settings.json", settings, out / "results.jsonl")


def _write_lines(arguments: argparse.Namespace, lines: int, out: Path) -> dict[str, Path]:
    out.mkdir(parents=True, exist_ok=True)
    return write_lines(arguments.data, out, {"train": lines, "dev": arguments.dev_lines})


def _measure_heads(arguments: argparse.Namespace, files: dict[str, Path], results: Results) -> None:
    from .language_models.head_cost import head_of, measure_head, random_head, some_states

    wanted = [0, *([arguments.random_head] if arguments.random_head else [])]
    if all(results.find(method="head", random=vocabulary) for vocabulary in wanted):
        return
    if not arguments.lora:
        print("without --lora there are no states to measure the head's cost with", flush=True)
        return
    table = tables(arguments.bundle, files, arguments.batch_size, arguments.max_length)["train"]
    states, tokens = some_states(arguments.lora, table)
    for vocabulary in wanted:
        if results.find(method="head", random=vocabulary):
            continue
        channels = states[0][0].shape[1]
        head = random_head(vocabulary, channels) if vocabulary else head_of(arguments.bundle)
        row = measure_head(head, states, tokens, arguments.batch_size)
        results.add({"method": "head", "random": vocabulary, **row})


def _train_side_networks(
    arguments: argparse.Namespace, files: dict[str, Path], results: Results
) -> None:
    if not results.find(method="side", all_computed=True):
        shutil.rmtree(arguments.out / "home", ignore_errors=True)  # what a stopped run has filled
    for seed in arguments.seeds:
        for loss in arguments.losses:
            settings = _settings(arguments, loss, seed)
            if not results.find(method="side", **settings):
                row = _trained(arguments, files, settings, arguments.out / "run")
                results.add({"method": "side", **settings, **row})


def _train_on_fewer_lines(arguments: argparse.Namespace, results: Results) -> None:
    """Trains on the first lines alone, each time with an empty cache."""
    for lines in arguments.fewer_lines:
        folder = arguments.out / f"lines-{lines}"
        for seed in arguments.seeds:
            settings = _settings(arguments, "candidates", seed)
            if results.find(method="fewer", lines=lines, **settings):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            files = _write_lines(arguments, lines, folder)
            os.environ["PACPLUS_HOME"] = str(folder / "home")
            row = _trained(arguments, files, settings, folder / "run")
            results.add({"method": "fewer", "lines": lines, **settings, **row})
            shutil.rmtree(folder)
    os.environ["PACPLUS_HOME"] = str(arguments.out / "home")


def _settings(arguments: argparse.Namespace, loss: str, seed: int) -> dict[str, Any]:
    """What tells one training of the side network from another, on the same lines."""
    return {
        "loss": loss,
        "seed": seed,
        "epochs": arguments.epochs,
        "rate": arguments.learning_rate,
        "adapter": arguments.adapter,
        "reduction": arguments.reduction,
    }


def _trained(
    arguments: argparse.Namespace, files: dict[str, Path], settings: dict[str, Any], run: Path
) -> Row:
    from .language_models.side_network import Options, train_side_network

    options = Options(batch_size=arguments.batch_size, max_length=arguments.max_length, **settings)
    return train_side_network(arguments.bundle, files, options, run)


def _train_lora(arguments: argparse.Namespace, files: dict[str, Path], results: Results) -> None:
    from .language_models.lora import Lora, Options

    samples = tables(arguments.bundle, files, arguments.batch_size, arguments.max_length)
    for seed in arguments.lora_seeds:
        for rate in arguments.lora_rates:
            settings = {"rate": rate, "seed": seed, "epochs": arguments.lora_epochs}
            if results.find(method="lora", epoch=float(arguments.lora_epochs), **settings):
                continue
            options = Options(
                batch_size=arguments.batch_size, points=arguments.lora_points, **settings
            )
            name = "-".join(f"{value:g}" for value in settings.values())
            state = arguments.out / f"lora-{name}.safetensors"
            Lora(arguments.lora, samples, options, state).train(
                results, {"method": "lora", **settings}
            )
            state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
