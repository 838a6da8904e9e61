"""``pacplus-device`` that lies, or grows, once a file of that name is in its home."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

LIES = "sends-nan"
"""What it sends to other devices is not a number."""

GROWS = "takes-memory"
"""It takes memory until something stops it."""

CHUNK_BYTES = 1 << 20


def main() -> int:
    """Runs ``pacplus-device`` with the arguments of this process."""
    from edge_runtime.device import cli

    home = Path(sys.argv[sys.argv.index("--home") + 1])
    _send_lies(home / LIES)
    _take_memory(home / GROWS)
    return cli.main()


def _send_lies(order: Path) -> None:
    from edge_runtime.messaging.session_link import SessionLink

    honest = SessionLink.to_peer

    # Behind the device's own checks, where a message leaves: its receiver has to refuse it.
    def to_peer(self: SessionLink, peer: Any, message: Any) -> None:
        honest(self, peer, _corrupt(message) if order.exists() else message)

    SessionLink.to_peer = to_peer  # type: ignore[method-assign]


def _take_memory(order: Path) -> None:
    from edge_runtime.device.heart import Heart

    beat = Heart.beat

    def beat_and_grow(self: Heart, now: float, *, joined: bool) -> None:
        beat(self, now, joined=joined)
        if order.exists():
            order.unlink()  # it is to be obeyed once
            _grow()

    Heart.beat = beat_and_grow  # type: ignore[method-assign]


def _corrupt(message: Any) -> Any:
    from edge_runtime.contract import messages as m

    match message:
        case m.States():
            lies = np.full_like(message.encoded, 0xFF)  # a NaN in every dtype of the cache
            return dataclasses.replace(message, encoded=lies)
        case m.GradientPart() | m.ReducedPart():
            return dataclasses.replace(message, values=np.full_like(message.values, np.nan))
        case m.Activations():
            rows = {
                name: np.full_like(row, np.nan) if row.dtype == np.float32 else row
                for name, row in message.rows.items()
            }
            return dataclasses.replace(message, rows=rows)
    return message


def _grow() -> None:
    taken = []
    while True:
        taken.append(b"x" * CHUNK_BYTES)


if __name__ == "__main__":
    sys.exit(main())
