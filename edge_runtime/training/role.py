"""The trainer role: owns samples, keeps their states, trains the adapter on them.

Does not import torch; :mod:`edge_runtime.parallel_adapters` does, when an adapter is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.cache.keys import CacheKeys
from edge_runtime.cache.session_cache import TRANSIENT_BYTES, SampleCache
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import AllReduceClosedError, RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.language_head.candidates import BEST
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.messaging.outbox import Outbox
from edge_runtime.messaging.tagging import current_tag, peer_tag, tagged
from edge_runtime.serving.generator import Generator
from edge_runtime.serving.loaded_adapter import LoadedAdapter
from edge_runtime.serving.pieces import groups_by_length
from edge_runtime.system.memory_guard import MemoryGuard
from edge_runtime.system.usage import available_memory_bytes

from .allreduce import AllReduce
from .engine_ahead import import_engine_ahead
from .epoch import train_steps
from .line_candidates import LineCandidates, count_tokens_here
from .part_checks import Limits
from .replica import TRAINING_THREADS, Replica
from .samples import OwnedSamples
from .side_by_side import SideBySide


class TrainerRole:
    """One trainer.

    ``store``, ``deliver``, ``form_group`` and ``begin_term`` are for the I/O thread too, the rest
    is not.

    Attributes:
        replica: the adapter that it trains; may come from an earlier session.
    """

    def __init__(
        self, *, me: DeviceId, home: Path, outbox: Outbox, keys: CacheKeys | None = None
    ) -> None:
        self._me, self._home, self._outbox = me, home, outbox
        self._keys = keys or CacheKeys(home)
        self._cache: SampleCache | None = None
        self._will_train = False
        self._owned: dict[m.SampleSet, OwnedSamples] = {}
        self.replica: Replica | None = None
        self._is_set_up = False
        self._head: tuple[FrozenHead, str] | None = None
        self._lines: LineCandidates | None = None
        self._settings: SideBySide | None = None
        self._group: tuple[int, AllReduce] | None = None
        self._predict: tuple[AdapterConfig, Callable[[OwnedSamples, m.Array], m.Array]] | None = (
            None
        )
        self._loaded: LoadedAdapter | None = None
        self._generator: Generator | None = None
        self._memory = MemoryGuard.of_process()

    # ---- cache

    def open_cache(self, request: m.OpenCache) -> None:
        """Opens the cache, if it is not open, and says which of the asked samples it holds."""
        self._will_train = request.trains
        cache = self._cache
        if cache is not None and cache.is_of(request):
            cache.expect(request.keys)
        else:
            self._close_cache()
            most = min(TRANSIENT_BYTES, available_memory_bytes() // 4)
            self._cache = cache = SampleCache(request, self._home / "cache", self._keys, most)
        self._outbox.to_coordinator(
            m.CacheStatus(
                held=cache.held(request.keys),
                bytes_used=cache.bytes_used,
                memory_bytes=cache.most_transient_bytes,
            )
        )

    def store(self, states: m.States) -> None:
        """Keeps states and tells the coordinator.

        Raises:
            RemoteError: nobody asked for them, they do not fit the cache, or none is open.
        """
        kept = self._opened().append(states)
        if self._will_train:
            self._will_train = False
            import_engine_ahead()
        self._outbox.to_coordinator(
            m.Stored(
                number=states.number,
                layers=states.layers,
                samples=len(states.keys),
                kept=None if (kept == m.ON_DISK).all() else kept,
            )
        )

    def move(self, request: m.MoveSamples) -> None:
        """Sends cached states to their new owner, and tells the coordinator that it has."""
        for states in self._opened().messages(request.number, request.keys, request.layers):
            self._outbox.wait_for_room()
            self._outbox.to_peer(request.to, states)
        self._outbox.to_coordinator(m.SamplesSent(number=request.number))

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

    def hold(self, request: m.HoldSamples) -> None:
        """Keeps states of these samples in memory from now on, and of no others any more."""
        cache = self._opened()
        cache.hold_for_now(request.keys)
        self._outbox.to_coordinator(m.SamplesHeld(readable=cache.held_now(request.keys)))

    def _opened(self) -> SampleCache:
        if self._cache is None:
            raise RemoteError("the activation cache is not open")
        return self._cache

    def _close_cache(self) -> None:
        cache, self._cache = self._cache, None
        self._owned.clear()
        self._close_lines()
        if cache is not None:
            cache.close()

    def _close_lines(self) -> None:
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.close()

    # ---- adapter

    def set_up(
        self, request: m.SetUpTraining, files: WeightStore, kept: LoadedAdapter | None = None
    ) -> None:
        """Makes the adapter, unless the one of this run is there; its files are in ``files``.

        Where nothing will be trained, the adapter is a graph, which needs no PyTorch, and may be
        ``kept`` from an earlier session.
        """
        self._is_set_up, self._loaded = request.adapter_graph is None, None
        self._settings = None
        self._close_lines()
        if request.adapter_graph is None:
            head = _head(request, files)
            self._head = (head, request.head.sha256) if head and request.head else None
            replica = self._set_up_replica(request, head, files)
            self._settings = SideBySide(request, head, files)
            trainer = replica.trainer
            ready = m.TrainingReady(
                parameters=trainer.parameters, step=trainer.step, sums=replica.sums
            )
        else:
            self.replica = self._predict = None
            self._loaded = loaded = kept or LoadedAdapter.load(
                request, _head(request, files), files, TRAINING_THREADS
            )
            self._predict = (
                request.config,
                lambda of, piece: loaded.session.outputs(of.batch(piece)),
            )
            ready = m.TrainingReady(parameters=0)
        self._outbox.to_coordinator(ready)

    def _set_up_replica(
        self, request: m.SetUpTraining, head: FrozenHead | None, files: WeightStore
    ) -> Replica:
        replica = self.replica
        if replica is None or not replica.is_of(request):
            self.replica = self._group = None  # its memory goes before the new comes
            self.replica = replica = Replica.make(request, head, files)
        trainer = replica.trainer
        self._predict = replica.config, lambda of, piece: trainer.outputs(of.packed_batch(piece))
        return replica

    def take_state(self, request: m.TakeState) -> None:
        """Goes on from another trainer's state.

        Raises:
            BadInputError: it is none, or of another step than is said.
        """
        self._trained().take(request)
        self._outbox.to_coordinator(m.StateTaken(step=request.step))

    def send_state(self) -> None:
        """Sends adapter and optimizer."""
        replica = self._trained()
        data = np.frombuffer(replica.trainer.state(), np.uint8)
        step = replica.trainer.step
        self._outbox.to_coordinator(m.TrainerState(data=data, step=step, sums=replica.sums))

    # ---- training

    def form_group(self, request: m.FormGroup) -> None:
        """Takes in gradients of these trainers from now on, in this term.

        Raises:
            RemoteError: there is no adapter, this device is not among the trainers, or counts are
                of another vocabulary.
        """
        from edge_runtime.parallel_adapters.rounding import HalfPrecision

        replica = self._trained()
        if request.token_counts is not None:
            replica.take_counts(request.token_counts)
        all_reduce = AllReduce(
            me=self._me,
            trainers=request.trainers,
            size=replica.trainer.parameters,
            send=self._outbox.to_peer,
            rounding=HalfPrecision(),
            limits=Limits(
                samples=replica.options.batch_size, counts_tokens=replica.config.generative
            ),
            step=replica.trainer.step,
            report=self._report_waiting,
            reject=self._reject,
        )
        self._close_group()
        replica.rename(request.run)
        self._group = current_tag().term, all_reduce
        self._outbox.to_coordinator(m.GroupFormed())

    def begin_term(self, term: float = math.inf) -> None:
        """Gives up a step of an earlier term; what is cached and learnt stays."""
        self._close_group()
        if (settings := self._settings) is not None:
            settings.begin_term(term)

    def deliver(self, sender: DeviceId, part: m.GradientPart | m.ReducedPart) -> None:
        """Takes in a peer's part of a step."""
        group = self._group
        if group is None or group[0] != current_tag().term:
            raise RemoteError("a gradient came before a group of trainers was formed")
        group[1].deliver(sender, part)

    def train_epoch(self, request: m.TrainEpoch) -> None:
        """Trains steps of an epoch, together with the other trainers of the group."""
        replica, owned = self._trained(), self._samples("train")
        group, term = self._group, current_tag().term
        if group is None or group[0] < term:
            raise RemoteError("no group of trainers was formed")
        if group[0] > term:
            raise AllReduceClosedError("the term of these steps has ended")
        lines = self._line_candidates(replica)
        if lines is not None:
            lines.search_by(replica.trainer.token_counts)
        train_steps(request, replica, owned, group[1], self._outbox, lines)

    def train_settings(self, request: m.TrainSettings) -> None:
        """Trains several settings side by side, which leaves this trainer's adapter alone."""
        samples = self._samples("train"), self._samples("eval")
        lines = self._line_candidates(self._trained())
        if (settings := self._settings) is not None:
            settings.train(request, *samples, lines, self._outbox)

    def count_tokens(self) -> None:
        """Counts how likely tokens are in the lines that all trainers choose, as far as here.

        Where the loss is over the whole vocabulary, that is nothing.
        """
        replica, owned = self._trained(), self._samples("train")
        counts = np.zeros((2, replica.config.num_outputs), np.int64)
        if (lines := self._line_candidates(replica)) is not None:
            counts += count_tokens_here(owned, lines, self._opened().held_now(owned.request.keys))
        self._outbox.to_coordinator(m.TokenCounts(counts=counts))

    def _line_candidates(self, replica: Replica) -> LineCandidates | None:
        """Opens the candidates of lines; None where the loss is over the whole vocabulary."""
        if self._head is None or replica.options.loss == "exact":
            return None
        if self._lines is None:
            head, digest = self._head
            self._lines = LineCandidates(head, self._opened().open_candidates(digest, BEST))
        return self._lines

    def _report_waiting(self, step: int, peers: tuple[DeviceId, ...]) -> None:
        self._outbox.to_coordinator(m.Awaiting(step=step, peers=peers))

    def _reject(self, peer: DeviceId, reason: str) -> None:
        with tagged(peer_tag()):
            self._outbox.to_coordinator(m.Rejected(peer=peer, reason=reason))

    def _close_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group[1].close()

    def evaluate(self, request: m.Evaluate) -> None:
        """Computes the outputs of this device's evaluation samples, or of some of them.

        Raises:
            RemoteError: some are not its own, or it has no adapter.
            CacheMiss: the states of some are not here.
        """
        owned = self._samples("eval")
        if self._predict is None:
            raise RemoteError("training was not set up")
        config, predict = self._predict
        owned.check_for(config)
        indices = owned.request.indices
        chosen = np.arange(len(indices))
        if request.indices is not None:
            if not np.isin(request.indices, indices).all():
                raise RemoteError("asked for outputs of samples that are another device's")
            chosen = np.flatnonzero(np.isin(indices, request.indices))
        pieces, found = [], []
        for group in groups_by_length(chosen, owned.tokens):
            for piece in owned.pieces(group):
                pieces.append(piece)
                found.append(predict(owned, piece))
                owned.computed(piece)
        computed = np.concatenate(pieces)
        outputs = np.concatenate(found)[np.argsort(computed)]
        self._outbox.to_coordinator(m.Outputs(indices=indices[np.sort(computed)], outputs=outputs))

    # ---- generation

    def set_up_generation(self, request: m.SetUpGeneration) -> None:
        """Gets ready to choose tokens, if this device has a language model's adapter."""
        language = self._loaded.language if self._loaded is not None else None
        self._generator = Generator(request, language) if language is not None else None

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

    def end_generation(self) -> None:
        """Forgets all sequences."""
        self._generator = None

    def release(self, lines: m.Array) -> None:
        """Forgets sequences."""
        if self._generator is not None:
            self._generator.release(lines)

    def hand_over(self) -> LoadedAdapter | None:
        """Hands a trained adapter on to the next session, without what it computed in this one."""
        loaded, self._loaded, self._predict = self._loaded, None, None
        if loaded is not None:
            loaded.shrink()
        return loaded

    def close(self) -> None:
        """Ends a waiting step and makes the cache durable."""
        self.begin_term()
        self._close_cache()

    def _trained(self) -> Replica:
        if self.replica is None or not self._is_set_up:
            raise RemoteError("training was not set up")
        return self.replica

    def _samples(self, which: m.SampleSet) -> OwnedSamples:
        if which not in self._owned:
            raise RemoteError(f"this device owns no {which} samples")
        return self._owned[which]


def _head(request: m.SetUpTraining, files: WeightStore) -> FrozenHead | None:
    head = request.head
    return None if head is None else FrozenHead.open(files.path(head), request.config)
