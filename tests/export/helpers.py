"""Laying out stages as a device does, and feeding them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.cluster.stage_files import StageCutter
from edge_runtime.inference.paired_files import write_paired
from edge_runtime.inference.session import GraphSession
from edge_runtime.inference.weight_store import WeightStore
from export.partition.stages import Bundle, cut_stage
from export.verify.ort_session import Graph

Array = np.ndarray[Any, Any]


def lay_out(bundle: Bundle, first: int, last: int, folder: Path, *, exact: bool = False) -> Path:
    """Puts a stage's graph and weight files into one flat folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in bundle.manifest.weight_files(first, last):
        shutil.copy(bundle.file_path(file), folder)
        if exact:
            WeightStore(folder).write_uint8(file)
    path = folder / "stage.onnx"
    path.write_bytes(cut_stage(bundle, first, last, exact=exact))
    return path


def lay_out_paired(bundle: Bundle, first: int, last: int, folder: Path) -> Path:
    """Puts a stage's graph and files there as a device does whose int8 product saturates."""
    store = WeightStore(folder)
    for file in bundle.manifest.weight_files(first, last):
        shutil.copy(bundle.file_path(file), store.path(file))
    request = StageCutter(bundle).load_stage(first, last, layers=(), dtype="fp32")
    return write_paired(request.stage, store)


def run_as_it_is(path: Path, batch: dict[str, Array]) -> dict[str, Array]:
    """All outputs as a device computes them: by this processor's kernels for this very form."""
    graph = GraphSession(path, threads=1)
    outputs = graph.run({name: batch[name] for name in graph.input_names}, graph.output_names)
    return dict(zip(graph.output_names, outputs, strict=True))


def chain(bundle: Bundle, cuts: list[int], folder: Path, batch: dict[str, Array]) -> list[Array]:
    """All hidden states, through stages cut at ``cuts``, each fed by the one before."""
    known = dict(batch)
    for first, last in itertools.pairwise(cuts):
        stage = Graph(lay_out(bundle, first, last, folder / f"{first}-{last}"))
        known |= stage.run(known)
    return [known[f"hidden.{block}"] for block in range(cuts[0], cuts[-1])]


def padded(
    bundle: Bundle, ids: Array, *, length: int, row: int = 0, rows: int = 1, seed: int = 0
) -> dict[str, Array]:
    """A batch with ``ids`` in one row, strangers in the others, junk as padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 60, (rows, length))
    mask = (np.arange(length) < rng.integers(1, length + 1, rows)[:, None]).astype(np.int64)
    tokens[row, : len(ids)] = ids
    mask[row] = np.arange(length) < len(ids)
    if bundle.manifest.architecture == "roberta":
        tokens = np.where(mask > 0, tokens, 0)  # its positions are counted from the ids
    batch = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    return {spec.name: batch[spec.name] for spec in bundle.manifest.inputs}
