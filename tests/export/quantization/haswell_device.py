"""Runs a stage as a device on this processor does; started on an emulated one.

usage: haswell_device.py KERNEL MESSAGE WEIGHTS INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edge_runtime.backbone import loaded_stage
from edge_runtime.contract.codec import decode
from edge_runtime.contract.messages import LoadStage
from edge_runtime.inference.session import GraphSession, Kernel, Numerics
from edge_runtime.inference.weight_store import WeightStore


def main(kernel: Kernel, message: str, weights: str, inputs: str, outputs: str) -> None:
    with np.load(message) as frames:
        request = decode([frame.tobytes() for frame in frames.values()])
    assert isinstance(request, LoadStage)
    # By time this processor would choose; emulated times say nothing.
    loaded_stage.numerics = lambda: Numerics(runtime="emulated", kernel=kernel)
    path = loaded_stage.write_stage_graph(request.stage, WeightStore(Path(weights)))
    graph = GraphSession(path, 1)
    with np.load(inputs) as batch:
        states = graph.run(dict(batch), graph.output_names)
    np.savez(outputs, **dict(zip(graph.output_names, states, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
