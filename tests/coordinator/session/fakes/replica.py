"""The replicas of fake trainers: a digest that depends on every line of every step."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import BadInputError, RemoteError
from edge_runtime.contract.order import epoch_order
from edge_runtime.contract.tensors import read_tensors, write_tensors

PARAMETERS = 5


@functools.lru_cache(None)
def gradient_of(index: int, epoch: int) -> tuple[int, ...]:
    """The gradient of line ``index``: integers from 0 to 15."""
    return tuple(byte % 16 for byte in hashlib.sha256(b"%d %d" % (index, epoch)).digest()[:5])


def summed_gradient(indices: list[int], epoch: int) -> tuple[int, ...]:
    """The gradient of some lines together."""
    rows = [gradient_of(index, epoch) for index in indices]
    return tuple(map(sum, zip(*rows, strict=True))) if rows else (0,) * PARAMETERS


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """An adapter after ``step`` updates; ``digest`` depends on every line of each of them.

    ``rounding`` stands for the last bits of a real one, which depend on who summed with whom;
    only :mod:`tests.faults` looks at them.
    """

    step: int = 0
    digest: str = "new"
    rounding: str = dataclasses.field(default="", compare=False)

    @property
    def state(self) -> bytes:
        """Adapter and optimizer, as they are sent."""
        digest = np.frombuffer(self.digest.encode().ljust(16), np.uint8)
        tensors = {"adapter": np.append(digest, self.step).astype(np.float32)}
        if self.rounding:
            rounding = np.frombuffer(self.rounding.encode(), np.uint8)
            tensors["rounding"] = rounding.astype(np.float32)
        return write_tensors(tensors)

    @classmethod
    def parse(cls, state: bytes) -> Replica:
        """Takes a state over.

        Raises:
            RemoteError: it is none.
        """
        try:
            tensors = read_tensors(state)
            *digest, step = tensors["adapter"].astype(np.int64).tolist()
            rounding = tensors.get("rounding", np.zeros(0)).astype(np.uint8).tobytes().decode()
            return cls(step, bytes(digest).decode().rstrip(), rounding)
        except (BadInputError, KeyError, ValueError):
            raise RemoteError("trainer state: damaged") from None

    def applied(self, gradient: tuple[int, ...]) -> Replica:
        """After one more update."""
        text = f"{self.digest} {self.step} {gradient}"
        return Replica(self.step + 1, _hashed(text), self.rounding)

    def rounded(self, group: str) -> Replica:
        """After the last update was summed in a group."""
        return dataclasses.replace(self, rounding=_hashed(f"{self.rounding} {group}"))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def undisturbed(
    ranks: np.ndarray, tokens: np.ndarray, options: TrainingOptions, steps: int
) -> Replica:
    """The replica after so many updates on all lines, ``ranks`` and ``tokens`` (N,) of them."""
    replica, epoch = Replica(), 0
    while replica.step < steps:
        epoch += 1
        for chosen in order_of(ranks, tokens, len(ranks), options, epoch):
            if replica.step < steps:
                replica = replica.applied(summed_gradient(chosen.tolist(), epoch))
    return replica


def order_of(
    ranks: np.ndarray, tokens: np.ndarray, total: int, options: TrainingOptions, epoch: int
) -> list[np.ndarray]:
    return epoch_order(
        ranks,
        tokens,
        num_samples=total,
        batch_size=options.batch_size,
        seed=options.seed,
        epoch=epoch,
    )
