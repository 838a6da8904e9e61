"""Reads and writes the checkpoints of a run: the last two, each with the digest of its state.

A checkpoint is two files, ``step-NNNNNNNN.safetensors`` and ``.json``. The JSON is written last:
without it the checkpoint does not count.
"""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from coordinator.protocol.record import Recovery
from edge_runtime.contract.adapter import check_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.messages import NOTHING_SUMMED, EpochSums
from edge_runtime.contract.structure import from_plain, to_plain
from edge_runtime.contract.tensors import read_tensors
from edge_runtime.transport.files import make_private_directory, write_private

from .report import EpochReport, FillReport

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
KEPT = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The trainers' state after some updates, and what the report says of the epochs up to there.

    ``sums`` are those of the epoch that ``state`` is in, or has ended with. ``eval_before`` are
    metrics before training, ``seconds`` and ``recoveries`` of all sessions up to here, and
    ``fill`` that of the session which computed most.
    """

    step: int
    sums: EpochSums = NOTHING_SUMMED
    epochs: tuple[EpochReport, ...]
    eval_before: dict[str, float]
    state: bytes = b""
    seconds: float = 0.0
    fill: FillReport | None = None
    recoveries: tuple[Recovery, ...] = ()


class Checkpoints:
    """The checkpoints in a run's folder; every file appears whole or not at all."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, and removes all but the one before.

        Raises:
            UnresumableError: a weight is infinite or not a number; nothing was changed.
            BadInputError: the state is no safetensors file; nothing was changed.
            StorageError: the disk refuses.
        """
        check_weights(checkpoint.state)
        name = f"step-{checkpoint.step:08d}"
        plain = to_plain(checkpoint)
        del plain["state"]
        plain["state_sha256"] = hashlib.sha256(checkpoint.state).hexdigest()
        make_private_directory(self._folder)
        # The digest of a state that is written again would not fit the new one.
        (self._folder / f"{name}.json").unlink(missing_ok=True)
        write_private(self._folder / f"{name}.safetensors", checkpoint.state)
        write_private(self._folder / f"{name}.json", (json.dumps(plain, indent=1) + "\n").encode())
        earlier = (path.stem for path in self._folder.glob("step-*.json") if path.stem < name)
        kept = {name, *sorted(earlier)[1 - KEPT :]}
        for old in self._folder.iterdir():
            if old.stem not in kept:
                old.unlink()

    def last(self) -> Checkpoint | None:
        """Reads the newest checkpoint that is whole; says which newer one is not.

        Raises:
            BadInputError: there are some, and none is whole.
        """
        damaged = None
        # "step" is behind "epoch", as earlier versions named theirs.
        found = [*self._folder.glob("step-*.json"), *self._folder.glob("epoch-*.json")]
        for path in sorted(found, reverse=True):
            state = path.with_suffix(".safetensors")
            if not state.exists():
                continue
            try:
                checkpoint = _read(path, state)
            except BadInputError as error:
                damaged = damaged or error
                continue
            if damaged is not None:
                logger.warning(
                    "%s; going on from the checkpoint before, of update %d",
                    damaged,
                    checkpoint.step,
                )
            return checkpoint
        if damaged is not None:
            raise BadInputError(f"{damaged}; no other is left, start a new run with another -o")
        return None


def _read(path: Path, state_path: Path) -> Checkpoint:
    try:
        plain: Any = json.loads(path.read_bytes())
        state = state_path.read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: cannot be read: {error}") from None
    # Earlier versions wrote none.
    digest = plain.pop("state_sha256", None) if isinstance(plain, dict) else None
    if digest is not None and digest != hashlib.sha256(state).hexdigest():
        raise BadInputError(f"{state_path}: is damaged")
    try:
        check_weights(state)
    except BadInputError as error:
        raise BadInputError(f"{state_path}: {error}") from None
    if isinstance(plain, dict) and "epochs_done" in plain:
        plain = _of_earlier_version(plain, state)
    checkpoint = from_plain(Checkpoint, plain, str(path))
    return dataclasses.replace(checkpoint, state=state)


def _of_earlier_version(plain: dict[str, Any], state: bytes) -> dict[str, Any]:
    """A checkpoint that was made at the end of an epoch only, and named by it."""
    epoch, step = plain.pop("epochs_done"), int(read_tensors(state)["optimizer.step"][0])
    steps = step // max(1, int(epoch))
    return {**plain, "step": step, "sums": {"epoch": epoch, "steps": steps}}
