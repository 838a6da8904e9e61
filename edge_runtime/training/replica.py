"""One trainer's copy of the adapter, and how it outlives a session whose coordinator is gone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.messages import (
    NOTHING_SUMMED,
    Array,
    EpochSums,
    SetUpTraining,
    TakeState,
)
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.language_head.token_counts import is_counts

if TYPE_CHECKING:
    from edge_runtime.parallel_adapters import Trainer

TRAINING_THREADS = 1
"""An adapter's matrices are small: more threads cost more in waiting than they gain."""

KEPT_SECONDS = 15 * 60.0
"""A coordinator that was killed is started again within that time, or not at all."""

_Identity: TypeAlias = tuple[str, AdapterConfig, TrainingOptions, int]


@dataclasses.dataclass(slots=True)
class Replica:
    """The adapter with its optimizer, changed by whole applied steps only.

    Attributes:
        sums: of the epoch that it is in; equal at every trainer of equal step.
    """

    identity: _Identity
    trainer: Trainer
    sums: EpochSums = NOTHING_SUMMED

    @classmethod
    def make(cls, request: SetUpTraining, head: FrozenHead | None, files: WeightStore) -> Replica:
        """Makes the adapter, new or from a state; the request's files are in ``files``.

        Raises:
            BadInputError: the state is damaged, or of another adapter.
        """
        from edge_runtime.parallel_adapters import Trainer

        initial = request.adapter_init
        trainer = Trainer(
            request.config,
            request.options,
            request.total_steps,
            threads=TRAINING_THREADS,
            head=head,
            initial=files.path(initial).read_bytes() if initial is not None else None,
        )
        if request.state.size:
            trainer.load_state(request.state.tobytes())
        return cls(_identity_of(request), trainer, request.sums)

    def is_of(self, request: SetUpTraining) -> bool:
        """Tells whether it is what the request asks for; a run without a name is always new."""
        return bool(request.run) and self.identity == _identity_of(request)

    def rename(self, run: str) -> None:
        """Makes it known by another name: replicas that go another way from here are others."""
        if run:
            self.identity = (run, *self.identity[1:])

    def take_counts(self, token_counts: Array) -> None:
        """Searches candidates and samples others by these counts from now on.

        Raises:
            RemoteError: they are of another vocabulary, or none.
        """
        if not is_counts(token_counts, self.config.num_outputs):
            raise RemoteError("what tokens are to be sampled by is not of this vocabulary")
        self.trainer.token_counts = token_counts

    def take(self, request: TakeState) -> None:
        """Goes on from another trainer's state; unchanged if it raises.

        Raises:
            BadInputError: damaged, not finite, of another adapter or of another step.
        """
        self.trainer.load_state(request.data.tobytes(), step=request.step)
        self.sums = request.sums

    @property
    def config(self) -> AdapterConfig:
        """Its shape."""
        return self.identity[1]

    @property
    def options(self) -> TrainingOptions:
        """How it is trained."""
        return self.identity[2]


def _identity_of(request: SetUpTraining) -> _Identity:
    return request.run, request.config, request.options, request.total_steps


class KeptReplica:
    """Holds a replica between two sessions, for a limited time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` tells seconds since any time."""
        self._clock = clock
        self._held: tuple[Replica, float] | None = None

    def put(self, replica: Replica | None) -> None:
        """Holds ``replica``, if there is one, and nothing else."""
        self._held = None if replica is None else (replica, self._clock())

    def take(self) -> Replica | None:
        """Hands on what is held."""
        self.expire()
        held, self._held = self._held, None
        return None if held is None else held[0]

    def expire(self) -> None:
        """Gives its memory back once nobody has asked for it in time."""
        if self._held is not None and self._clock() - self._held[1] > KEPT_SECONDS:
            self._held = None
