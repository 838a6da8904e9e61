"""Merges a run's adapter and backbone into one ONNX model: :func:`merge`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from coordinator.runs.run_folder import RunFolder
from edge_runtime.transport import home_directory
from export.adapter.merge import MergedModel, check_output, merge_model

from .agreement import cache_note
from .use.trained_run import bundle_of_run

__all__ = ["MergedModel", "merge"]


def merge(
    run: Path,
    output: Path,
    *,
    bundle: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> MergedModel:
    """Writes backbone and adapter of a run as one ONNX model for any ONNX Runtime.

    Args:
        run: folder of a finished run.
        output: the ONNX file; must not exist.
        bundle: where the bundle is now, if it has moved.
        progress: called with a few words when a step begins.

    Raises:
        BadInputError: the run or the bundle is wrong, or ``output`` exists.
    """
    check_output(output)
    folder = RunFolder(run)
    config, weights = folder.read_adapter()
    if progress is not None:
        progress("checking the bundle")
    opened = bundle_of_run(folder, config, bundle)
    merged = merge_model(opened, config, weights, output, progress=progress, home=home_directory)
    return dataclasses.replace(merged, notes=(*merged.notes, *cache_note(folder, opened)))
