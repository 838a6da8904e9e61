"""Reads and writes what epochs are worth, and the adapter of the best one, in a run's ``best/``.

First ``epoch-NNNN.safetensors`` is written, then ``evaluations.json`` with its digest, which
counts: whatever is interrupted, the best adapter that it names is there.
"""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.contract.adapter import adapter_weights, check_weights
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import from_plain, to_plain
from edge_runtime.transport.files import make_private_directory, write_private

logger = logging.getLogger(__name__)

FOLDER = "best"
INDEX = "evaluations.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluations:
    """What epochs are worth on evaluation samples.

    Attributes:
        evaluated: metrics of each epoch that was evaluated, by epoch.
        best: the one whose adapter is kept; 0 if none is.
        weights: that adapter's, ``adapter_model.safetensors``.
        sha256: of ``weights``.
    """

    evaluated: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    best: int = 0
    weights: bytes = b""
    sha256: str = ""

    @property
    def by_epoch(self) -> dict[int, dict[str, float]]:
        """Metrics by epoch; what JSON has no number for is infinite."""
        return {
            int(epoch): {
                name: math.inf if value is None else value for name, value in metrics.items()
            }
            for epoch, metrics in self.evaluated.items()
        }


class EvaluationFiles:
    """The evaluations in a run's folder; every file appears whole or not at all."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER

    def write(self, evaluated: Mapping[int, Mapping[str, float]], best: int, state: bytes) -> None:
        """Writes evaluations, and the best epoch's adapter out of a trainer's ``state``.

        An empty ``state`` leaves the adapter that is kept already.

        Raises:
            UnresumableError: a weight is infinite or not a number; nothing was changed.
            BadInputError: the state is no safetensors file; nothing was changed.
            StorageError: the disk refuses.
        """
        make_private_directory(self._folder)
        if state:
            check_weights(state)
            weights = adapter_weights(state)
            write_private(self._weights(best), weights)
            digest = hashlib.sha256(weights).hexdigest()
        else:
            digest = self._index().sha256
        named = {
            str(epoch): {
                name: value if math.isfinite(value) else None for name, value in metrics.items()
            }
            for epoch, metrics in evaluated.items()
        }
        plain = to_plain(Evaluations(evaluated=named, best=best, sha256=digest))
        del plain["weights"]
        text = json.dumps(plain, indent=1) + "\n"
        write_private(self._folder / INDEX, text.encode())
        for old in self._folder.glob("epoch-*.safetensors"):
            if old != self._weights(best):
                old.unlink()

    def read(self) -> Evaluations:
        """Reads evaluations and the best adapter; nothing, with a warning, if one is damaged."""
        if not (self._folder / INDEX).exists():
            return Evaluations()
        try:
            index = self._index()
            weights = self._weights(index.best).read_bytes()
            if hashlib.sha256(weights).hexdigest() != index.sha256:
                raise BadInputError(f"{self._weights(index.best)}: is damaged")
        except (BadInputError, OSError) as error:
            logger.warning("%s; the best of the epochs that follow is kept", error)
            return Evaluations()
        return dataclasses.replace(index, weights=weights)

    def _weights(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:04d}.safetensors"

    def _index(self) -> Evaluations:
        path = self._folder / INDEX
        try:
            plain: Any = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise BadInputError(f"{path}: cannot be read: {error}") from None
        return from_plain(Evaluations, plain, str(path))
