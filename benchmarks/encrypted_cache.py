"""Times an activation cache with and without encryption, in this process: MB/s of CPU time.

python -m benchmarks.encrypted_cache --layers 7 --hidden 384 --tokens 25 --samples 6000
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from edge_runtime.cache.store import ActivationCache
from edge_runtime.contract.cache_format.encoding import encode

BATCH = 16


def measure(root: Path, arguments: argparse.Namespace, key: bytes | None) -> dict[str, float]:
    """CPU-seconds of filling a cache, of reading it once in another order, and of opening it."""
    generator = np.random.default_rng(0)
    count, tokens = arguments.samples, arguments.tokens
    keys = generator.integers(0, 256, (count, 32)).astype(np.uint8)
    shape = (arguments.layers, BATCH * tokens, arguments.hidden)
    encoded = encode(generator.standard_normal(shape).astype(np.float32), arguments.dtype)
    lengths, layers = np.full(BATCH, tokens), range(arguments.layers)

    def opened() -> ActivationCache:
        shape = root, "ab" * 32, arguments.dtype, arguments.hidden
        return ActivationCache(*shape, numerics="benchmark", key=key)

    seconds = {}
    with opened() as cache:
        began = time.process_time()
        for first in range(0, count, BATCH):
            some = keys[first : first + BATCH]
            cache.append(some, lengths[: len(some)], layers, encoded[:, : len(some) * tokens])
        seconds["write"] = time.process_time() - began
        size = cache.bytes_used
    began = time.process_time()
    cache = opened()
    seconds["open"] = time.process_time() - began
    with cache:
        for name in ("first read", "read"):  # the first also checks a plain record's CRC
            order = generator.permutation(count)
            began = time.process_time()
            for first in range(0, count, BATCH):
                cache.read_batch(keys[order[first : first + BATCH]], layers)
            seconds[name] = time.process_time() - began
    return {**seconds, "bytes": size}


def main() -> None:
    """Prints a table, plain and encrypted in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=25)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for round_number in range(arguments.rounds):
        for name, key in (("plain", None), ("encrypted", bytes(range(32)))):
            with tempfile.TemporaryDirectory() as folder:
                found = measure(Path(folder), arguments, key)
            size = found.pop("bytes")
            figures = ", ".join(
                f"{what} {seconds:.2f} s ({size / seconds / 1e6:.0f} MB/s)"
                for what, seconds in found.items()
            )
            print(f"{round_number} {name:9} {size / 1e6:.0f} MB: {figures}", flush=True)


if __name__ == "__main__":
    main()
