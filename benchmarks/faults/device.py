"""``pacplus-device`` that sends NaN once a file named :data:`ARMED` is in its home."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

ARMED = "sends-nan"


def main() -> int:
    """Runs ``pacplus-device`` with the arguments of this process."""
    from edge_runtime.device import cli

    armed = Path(sys.argv[sys.argv.index("--home") + 1]) / ARMED
    _corrupt_states(armed)
    _corrupt_gradients(armed)
    return cli.main()


def _corrupt_states(armed: Path) -> None:
    from edge_runtime.backbone import encoded_states

    honest = encoded_states.encode

    def encode(states: Any, dtype: Any, out: Any) -> Any:
        done = honest(states, dtype, out)
        if armed.exists():
            out.view(np.float16)[:] = np.nan
        return done

    encoded_states.encode = encode


def _corrupt_gradients(armed: Path) -> None:
    from edge_runtime.training import allreduce

    honest = allreduce._part

    def part(step: int, values: Any, scale: float, own: Any) -> Any:
        if armed.exists():
            values = np.full_like(values, np.nan)
        return honest(step, values, scale, own)

    allreduce._part = part


if __name__ == "__main__":
    sys.exit(main())
