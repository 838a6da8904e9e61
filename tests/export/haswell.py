"""Runs under an emulated processor: probes it, and runs a stage in the form that it needs.

usage: haswell.py PROBE PLAIN_STAGE EXACT_STAGE INPUTS.npz OUTPUT.npz
Needs numpy and onnxruntime only.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main(probe: str, plain: str, exact: str, inputs: str, output: str) -> None:
    rows = np.full((16, 128), 255, np.uint8)
    product, weight = session(probe).run(["y", "w"], {"a": rows})
    expected = (rows.astype(np.int64) - 128) @ weight.astype(np.int64)
    saturates = not np.array_equal(product, expected)
    results = {"saturates": np.array(saturates)}
    with np.load(inputs) as batch:
        feed = dict(batch)
    for name, path in {"plain": plain, "chosen": exact if saturates else plain}.items():
        results[name] = session(path).run(None, feed)[-1]
    np.savez(output, **results)


def session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main(*sys.argv[1:])
