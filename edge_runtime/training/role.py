"""The trainer role: owns samples, keeps their states, trains the adapter on them.

Does not import torch; :mod:`edge_runtime.parallel_adapters` does, when an adapter is made.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.cache.session_cache import TRANSIENT_BYTES, SampleCache
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import RemoteError, UnresumableError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import epoch_order
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.messaging.outbox import Outbox
from edge_runtime.parallel_adapters import Batch
from edge_runtime.parallel_adapters.frozen_head import FrozenHead
from edge_runtime.serving.generator import Generator, LanguageModel
from edge_runtime.serving.onnx_adapter import AdapterSession
from edge_runtime.system.memory_guard import MemoryGuard
from edge_runtime.system.usage import available_memory_bytes

from .allreduce import AllReduce
from .samples import OwnedSamples

if TYPE_CHECKING:
    from edge_runtime.parallel_adapters import Trainer

PROGRESS_SECONDS = 0.25
EVALUATION_BATCH = 32

TRAINING_THREADS = 1
"""An adapter's matrices are small: more threads cost more in waiting than they gain."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Training:
    options: TrainingOptions
    trainer: Trainer
    all_reduce: AllReduce


class TrainerRole:
    """One trainer. ``store`` and ``deliver`` are for the I/O thread too, the rest is not."""

    def __init__(self, *, me: DeviceId, home: Path, outbox: Outbox) -> None:
        self._me, self._home, self._outbox = me, home, outbox
        self._cache: SampleCache | None = None
        self._owned: dict[m.SampleSet, OwnedSamples] = {}
        self._training: _Training | None = None
        self._predict: Callable[[Batch], m.Array] | None = None
        self._language: LanguageModel | None = None
        self._generator: Generator | None = None
        self._memory = MemoryGuard.of_process()

    # ---- cache

    def open_cache(self, request: m.OpenCache) -> None:
        """Opens the cache and says which of the asked samples it holds."""
        self._close_cache()
        transient_bytes = min(TRANSIENT_BYTES, available_memory_bytes() // 4)
        self._cache = cache = SampleCache(request, self._home / "cache", transient_bytes)
        status = m.CacheStatus(held=cache.held(request.keys), bytes_used=cache.bytes_used)
        self._outbox.to_coordinator(status)

    def store(self, states: m.States) -> None:
        """Keeps states and tells the coordinator.

        Raises:
            RemoteError: nobody asked for them, they do not fit the cache, or none is open.
        """
        kept = self._opened().append(states)
        self._outbox.to_coordinator(
            m.Stored(
                number=states.number,
                layers=states.layers,
                samples=len(states.keys),
                kept=None if (kept == m.ON_DISK).all() else kept,
            )
        )

    def move(self, request: m.MoveSamples) -> None:
        """Sends cached states to their new owner."""
        for states in self._opened().messages(request.number, request.keys, request.layers):
            self._outbox.wait_for_room()
            self._outbox.to_peer(request.to, states)

    def own(self, request: m.OwnSamples) -> None:
        """Notes the samples, makes the cache durable and says which it lacks."""
        cache = self._opened()
        if not cache.layers.keys() <= request.lengths.keys():
            raise RemoteError("samples lack a sequence that is cached")
        cache.flush()
        missing = request.indices[~cache.held(request.keys)]
        used, samples, which = cache.bytes_used, cache.samples, request.which
        self._owned[which] = OwnedSamples(request, cache, self._memory)
        self._outbox.to_coordinator(
            m.SamplesReady(which=which, missing=missing, cache_bytes=used, cache_samples=samples)
        )

    def _opened(self) -> SampleCache:
        if self._cache is None:
            raise RemoteError("the activation cache is not open")
        return self._cache

    def _close_cache(self) -> None:
        cache, self._cache = self._cache, None
        self._owned.clear()
        if cache is not None:
            cache.close()

    # ---- adapter

    def set_up(self, request: m.SetUpTraining, files: WeightStore) -> None:
        """Makes the adapter, new or from a state; the request's files are in ``files``.

        Where nothing will be trained, the adapter is a graph, which needs no PyTorch.
        """
        config, head, parameters = request.config, None, 0
        if request.head is not None:
            head = FrozenHead.open(files.path(request.head), config)
        if request.adapter_graph is None:
            parameters = self._set_up_trainer(request, head, files)
        else:
            graph = files.path(request.adapter_graph).read_bytes()
            adapter = AdapterSession(graph, config, head, threads=TRAINING_THREADS)
            self._predict = adapter.outputs
            if head is not None:
                self._language = LanguageModel(config=config, adapter=adapter, head=head)
        self._outbox.to_coordinator(m.TrainingReady(parameters=parameters))

    def _set_up_trainer(
        self, request: m.SetUpTraining, head: FrozenHead | None, files: WeightStore
    ) -> int:
        from edge_runtime.parallel_adapters import Trainer
        from edge_runtime.parallel_adapters.rounding import HalfPrecision

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
        all_reduce = AllReduce(
            me=self._me,
            trainers=request.trainers,
            size=trainer.parameters,
            send=self._outbox.to_peer,
            rounding=HalfPrecision(),
        )
        self._training = _Training(request.options, trainer, all_reduce)
        self._predict = trainer.outputs
        return trainer.parameters

    def deliver(self, sender: DeviceId, part: m.GradientPart | m.ReducedPart) -> None:
        """Takes in a peer's part of a step."""
        if self._training is None:
            raise RemoteError(f"{sender} sent a gradient before training was set up")
        self._training.all_reduce.deliver(sender, part)

    def train_epoch(self, epoch: int) -> None:
        """Trains one epoch, in step with the other trainers."""
        training, owned = self._trained(), self._samples("train")
        options = training.options
        steps = epoch_order(
            owned.request.ranks,
            owned.tokens,
            num_samples=owned.request.total,
            batch_size=options.batch_size,
            seed=options.seed,
            epoch=epoch,
        )
        gradient = training.trainer.flat_gradient
        began = reported = time.monotonic()
        samples, count, loss_sum = 0, 0, 0.0
        for chosen in steps:
            loss, counted = _sum_gradients(training.trainer, owned, chosen)
            if not math.isfinite(loss_sum := loss_sum + loss):
                raise _diverged("loss", training, epoch)
            # Of language models' samples, a step's may be cut before anything that counts.
            try:
                gradient /= max(1, training.all_reduce.reduce(gradient, counted))
                training.trainer.apply(gradient)
            except UnresumableError:
                raise _diverged("gradient", training, epoch) from None
            samples, count = samples + len(chosen), count + counted
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                progress = m.Progress(epoch=epoch, samples=samples, count=count, loss_sum=loss_sum)
                self._outbox.to_coordinator(progress)
        if not training.trainer.finite:
            raise _diverged("adapter", training, epoch)
        seconds = time.monotonic() - began
        self._outbox.to_coordinator(
            m.EpochDone(
                epoch=epoch, samples=samples, count=count, loss_sum=loss_sum, seconds=seconds
            )
        )

    def evaluate(self) -> None:
        """Computes the outputs of this device's evaluation samples."""
        owned = self._samples("eval")
        if self._predict is None:
            raise RemoteError("training was not set up")
        by_length = np.argsort(owned.tokens, kind="stable")
        pieces, found = [], []
        for start in range(0, max(1, len(by_length)), EVALUATION_BATCH):
            for piece in owned.pieces(by_length[start : start + EVALUATION_BATCH]):
                pieces.append(piece)
                found.append(self._predict(owned.batch(piece)))
                owned.computed(piece)
        outputs = np.concatenate(found)
        outputs[np.concatenate(pieces)] = outputs.copy()
        self._outbox.to_coordinator(m.Outputs(indices=owned.request.indices, outputs=outputs))

    # ---- generation

    def set_up_generation(self, request: m.SetUpGeneration) -> None:
        """Gets ready to choose tokens, if this device has a language model's adapter."""
        self._generator = Generator(request, self._language) if self._language else None

    def keep(self, states: m.States) -> None:
        """Keeps states that this device's own stage made, or that are of sequences.

        Raises:
            RemoteError: nobody asked for them, or they do not fit what is here.
        """
        if states.sequences is None:
            self.store(states)
        elif self._generator is None:
            raise RemoteError("states of sequences came before generation was set up")
        elif (chosen := self._generator.take(states)) is not None:
            self._outbox.to_coordinator(chosen)

    def release(self, lines: m.Array) -> None:
        """Forgets sequences."""
        if self._generator is not None:
            self._generator.release(lines)

    def send_state(self) -> None:
        """Sends adapter and optimizer."""
        data = np.frombuffer(self._trained().trainer.state(), np.uint8)
        self._outbox.to_coordinator(m.TrainerState(data=data))

    def close(self) -> None:
        """Ends a waiting step and makes the cache durable."""
        if self._training is not None:
            self._training.all_reduce.close()
        self._close_cache()

    def _trained(self) -> _Training:
        if self._training is None:
            raise RemoteError("training was not set up")
        return self._training

    def _samples(self, which: m.SampleSet) -> OwnedSamples:
        if which not in self._owned:
            raise RemoteError(f"this device owns no {which} samples")
        return self._owned[which]


def _diverged(what: str, training: _Training, epoch: int) -> UnresumableError:
    if not training.trainer.step:
        return UnresumableError(
            f"the {what} is not a finite number before anything is learnt: the backbone's hidden "
            "states are too large; export the model again with another --quantize"
        )
    rate = training.options.learning_rate
    return UnresumableError(
        f"the {what} is not a finite number in epoch {epoch}: the learning rate of {rate:g} is too "
        "high; train a new run with a lower --learning-rate"
    )


def _sum_gradients(trainer: Trainer, owned: OwnedSamples, chosen: m.Array) -> tuple[float, int]:
    """Summed loss of the samples and its count; ``trainer.flat_gradient`` has its gradient."""
    trainer.flat_gradient.fill(0)
    loss, count = 0.0, 0
    for piece in owned.pieces(chosen) if len(chosen) else ():
        batch = owned.batch(piece)
        loss += trainer.add_gradients(batch)
        count += batch.count
        owned.computed(piece)
    return loss, count
