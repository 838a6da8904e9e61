"""The trainer role: owns samples, keeps their states, trains the adapter on them.

Does not import torch; :mod:`edge_runtime.training` does, when an adapter is made.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .backbone import split_layers
from .cache.store import ActivationCache
from .contract.adapter import TrainingOptions
from .contract.errors import BadInputError, RemoteError
from .contract.ids import DeviceId
from .contract.messages import (
    CacheStatus,
    EpochDone,
    GradientPart,
    MoveSamples,
    OpenCache,
    Outputs,
    OwnSamples,
    Progress,
    ReducedPart,
    SampleSet,
    SamplesReady,
    SetUpTraining,
    States,
    Stored,
    TrainerState,
    TrainingReady,
)
from .contract.order import epoch_order, step_counts
from .contract.tensors import read_tensors
from .exchange import GradientExchange
from .inference import numerics
from .outbox import Outbox
from .training import Batch

if TYPE_CHECKING:
    from .training import Trainer

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, Any]

PROGRESS_SECONDS = 0.25
EVALUATION_BATCH = 32

MIXED_NUMERICS = "mixed"
"""Tag of moved states that several kinds of processors computed."""

TRAINING_THREADS = 1
"""An adapter's matrices are small: more threads cost more in waiting than they gain."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Training:
    options: TrainingOptions
    trainer: Trainer
    exchange: GradientExchange


class TrainerRole:
    """One trainer. ``store`` and ``deliver`` may be called by the I/O thread, the rest by the
    compute thread.
    """  # noqa: D205

    def __init__(self, *, me: DeviceId, home: Path, outbox: Outbox) -> None:
        self._me, self._home, self._outbox = me, home, outbox
        self._cache: ActivationCache | None = None
        self._cache_lock = threading.Lock()
        self._layers: tuple[int, ...] = ()
        self._expected: set[bytes] = set()
        self._owned: dict[SampleSet, OwnSamples] = {}
        self._training: _Training | None = None
        self._predict: Callable[[Batch], Array] | None = None

    # ---- cache

    def open_cache(self, request: OpenCache) -> None:
        """Opens the cache and says which of the asked samples it holds."""
        with self._cache_lock:
            if self._cache is not None:
                self._cache.close()
            self._cache = ActivationCache(
                self._home / "cache",
                request.backbone_digest,
                request.dtype,
                request.hidden_size,
                quota_bytes=request.quota_bytes,
                numerics=str(numerics()),
            )
            self._layers = request.layers
            self._expected = {key.tobytes() for key in request.keys}
            held = self._cache.held(request.keys, request.layers)
            used = self._cache.bytes_used
        self._outbox.to_coordinator(CacheStatus(held=held, bytes_used=used))

    def store(self, states: States) -> None:
        """Keeps states and tells the coordinator.

        Raises:
            RemoteError: nobody asked for them, they do not fit the cache, or none is open.
        """
        cache = self._opened()
        known = all(key.tobytes() in self._expected for key in states.keys)
        if not known or not set(states.layers) <= set(self._layers):
            raise RemoteError(f"micro-batch {states.number}: states that nobody asked for")
        with self._cache_lock:
            try:
                cache.append(
                    states.keys,
                    states.lengths,
                    states.layers,
                    states.encoded,
                    numerics=states.numerics,
                )
            except ValueError as error:
                raise RemoteError(f"micro-batch {states.number}: {error}") from None
        self._outbox.to_coordinator(
            Stored(number=states.number, layers=states.layers, samples=len(states.keys))
        )

    def move(self, request: MoveSamples) -> None:
        """Sends cached states to their new owner."""
        with self._cache_lock:
            cache = self._opened()
            tags = {tag for key in request.keys for tag in cache.numerics_of(key.tobytes())}
            lengths, _ = cache.read_encoded(request.keys, request.layers[:1])
        layer_bytes = int(lengths.sum()) * cache.row_bytes
        for layers in split_layers(request.layers, layer_bytes):
            with self._cache_lock:
                _, encoded = cache.read_encoded(request.keys, layers)
            states = States(
                number=request.number,
                keys=request.keys,
                lengths=lengths,
                layers=layers,
                encoded=encoded,
                numerics=tags.pop() if len(tags) == 1 else MIXED_NUMERICS,
            )
            tags.add(states.numerics)
            self._outbox.wait_for_room()
            self._outbox.to_peer(request.to, states)

    def own(self, request: OwnSamples) -> None:
        """Takes note of the samples, makes the cache durable and says which it lacks."""
        with self._cache_lock:
            cache = self._opened()
            cache.flush()
            held = cache.held(request.keys, self._layers)
            ready = SamplesReady(
                which=request.which,
                missing=request.indices[~held],
                cache_bytes=cache.bytes_used,
                cache_samples=cache.samples,
            )
        self._owned[request.which] = request
        self._outbox.to_coordinator(ready)

    def _opened(self) -> ActivationCache:
        if self._cache is None:
            raise RemoteError("the activation cache is not open")
        return self._cache

    # ---- adapter

    def set_up(self, request: SetUpTraining) -> None:
        """Makes the adapter, new or from a state.

        Where nothing will be trained, the state is an adapter's weights: no optimizer then.
        """
        if request.state.size and not request.total_steps:
            self._set_up_predictor(request)
        else:
            self._set_up_trainer(request)

    def _set_up_predictor(self, request: SetUpTraining) -> None:
        from .training import Predictor

        weights = request.state.tobytes()
        self._predict = Predictor(request.config, weights, threads=TRAINING_THREADS).outputs
        parameters = sum(array.size for array in read_tensors(weights).values())
        self._outbox.to_coordinator(TrainingReady(parameters=parameters))

    def _set_up_trainer(self, request: SetUpTraining) -> None:
        from .training import Trainer
        from .training.rounding import HalfPrecision

        trainer = Trainer(
            request.config, request.options, request.total_steps, threads=TRAINING_THREADS
        )
        if request.state.size:
            trainer.load_state(request.state.tobytes())
        exchange = GradientExchange(
            me=self._me,
            trainers=request.trainers,
            size=trainer.parameters,
            send=self._outbox.to_peer,
            rounding=HalfPrecision(),
        )
        self._training = _Training(request.options, trainer, exchange)
        self._predict = trainer.outputs
        self._outbox.to_coordinator(TrainingReady(parameters=trainer.parameters))

    def deliver(self, sender: DeviceId, part: GradientPart | ReducedPart) -> None:
        """A peer's part of a step."""
        if self._training is None:
            raise RemoteError(f"{sender} sent a gradient before training was set up")
        self._training.exchange.deliver(sender, part)

    def train_epoch(self, epoch: int) -> None:
        """Trains one epoch, in step with the other trainers."""
        training, samples = self._trained(), self._samples("train")
        options = training.options
        shape = {"num_samples": samples.total, "batch_size": options.batch_size}
        steps = epoch_order(samples.ranks, samples.lengths, **shape, seed=options.seed, epoch=epoch)
        counts = step_counts(**shape, seed=options.seed, epoch=epoch)
        gradient = training.trainer.flat_gradient
        began = reported = time.monotonic()
        seen, loss_sum = 0, 0.0
        for chosen, count in zip(steps, counts.tolist(), strict=True):
            if len(chosen):
                loss_sum += training.trainer.gradients(self._batch(samples, chosen))
                if not math.isfinite(loss_sum):
                    raise BadInputError("the loss is not finite; lower the learning rate")
            else:
                gradient[:] = 0
            training.exchange.reduce(gradient)
            gradient /= count
            training.trainer.apply(gradient)
            seen += len(chosen)
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                self._outbox.to_coordinator(Progress(epoch=epoch, samples=seen, loss_sum=loss_sum))
        self._outbox.to_coordinator(
            EpochDone(
                epoch=epoch, samples=seen, loss_sum=loss_sum, seconds=time.monotonic() - began
            )
        )

    def evaluate(self) -> None:
        """Computes the outputs of this device's evaluation samples."""
        samples = self._samples("eval")
        if self._predict is None:
            raise RemoteError("training was not set up")
        by_length = np.argsort(samples.lengths, kind="stable")
        chunks = [
            by_length[start : start + EVALUATION_BATCH]
            for start in range(0, len(by_length), EVALUATION_BATCH)
        ]
        found = np.concatenate([self._predict(self._batch(samples, chunk)) for chunk in chunks])
        outputs = np.empty_like(found)
        outputs[by_length] = found
        self._outbox.to_coordinator(Outputs(indices=samples.indices, outputs=outputs))

    def send_state(self) -> None:
        """Sends adapter and optimizer."""
        data = np.frombuffer(self._trained().trainer.state(), np.uint8)
        self._outbox.to_coordinator(TrainerState(data=data))

    def close(self) -> None:
        """Ends a waiting step and makes the cache durable."""
        if self._training is not None:
            self._training.exchange.close()
        with self._cache_lock:
            if self._cache is not None:
                self._cache.close()
                self._cache = None

    def _trained(self) -> _Training:
        if self._training is None:
            raise RemoteError("training was not set up")
        return self._training

    def _samples(self, which: SampleSet) -> OwnSamples:
        samples = self._owned.get(which)
        if samples is None:
            raise RemoteError(f"this device owns no {which} samples")
        return samples

    def _batch(self, samples: OwnSamples, chosen: Array) -> Batch:
        with self._cache_lock:
            hidden, lengths = self._opened().read_batch(samples.keys[chosen], self._layers)
        return Batch(
            hidden=hidden,
            lengths=lengths,
            second_starts=samples.second_starts[chosen].astype(np.int64),
            targets=samples.targets[chosen],
        )
