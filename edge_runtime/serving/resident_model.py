"""Answers in the process itself: all blocks as one stage, a trained adapter and its head.

Hidden states take the same way as on a device, from the backbone's role to the adapter in the
dtype of the run's cache, but no socket and no cache lie between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.backbone.encoded_states import encoded_layers
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.contract import messages as m
from edge_runtime.contract.activations import LIVE_STATES
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.cache_format.encoding import decode_into
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest, Stream
from edge_runtime.contract.sample import Ragged, Samples
from edge_runtime.inference.session import keep_choice_in
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch
from edge_runtime.parallel_adapters.batch import NOT_COUNTED
from edge_runtime.system.memory_guard import MemoryGuard
from edge_runtime.system.usage import (
    resident_bytes,
    usable_cores,
    usable_memory_bytes,
    usable_threads,
)
from edge_runtime.transport import home_directory

from .generator import Generator, LanguageModel
from .onnx_adapter import AdapterSession
from .pieces import BATCH_BYTES, groups_by_length, halved
from .whole_stage import BACKBONE, Nobody, copy_files, is_whole, whole_stage

HERE = DeviceId("this-machine")
LOSS_COLUMNS = 3


class ResidentModel:
    """A run's model, loaded; one thread at a time."""

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        config: AdapterConfig,
        adapter: bytes,
        dtype: m.CacheDtype,
        *,
        cut: Callable[[], m.LoadStage],
        store: Callable[[], Path],
    ) -> None:
        """Loads backbone, adapter and head.

        Args:
            bundle: folder of the bundle.
            manifest: of the bundle.
            config: of the adapter.
            adapter: as ONNX.
            dtype: in which the run caches hidden states; they are rounded alike here.
            cut: cuts all blocks out as a stage, an encoder-decoder's two stacks apart. Asked only
                where the bundle's own graph does not do, see :func:`.is_whole`.
            store: folder where such a stage is written, its weights as links.

        Raises:
            UnresumableError: ONNX Runtime refuses a graph.
            BadInputError: the head is damaged.
        """
        self._manifest, self._config, self._dtype = manifest, config, dtype
        self._memory = MemoryGuard.of_process()
        keep_choice_in(home_directory)
        self._backbone = BackboneRole(
            me=HERE, threads=usable_threads(), outbox=Nobody(), keep=self._keep, spins=True
        )
        if is_whole(manifest, config):
            self._backbone.open(whole_stage(manifest, config, dtype), [bundle / BACKBONE])
        else:
            request, files = cut(), WeightStore(store())
            copy_files(request, bundle, files)
            self._backbone.load(request, files)
        spec = manifest.head if config.generative else None
        self._head = FrozenHead.open(bundle / spec.path, config) if spec is not None else None
        self._adapter = AdapterSession(adapter, config, self._head)
        encoder = config.layers[: config.encoder_layers]
        self._layers: dict[Stream, tuple[int, ...]] = {"encoder": encoder} if encoder else {}
        self._layers[manifest.output_stream] = config.layers[config.encoder_layers :]
        self._generator: Generator | None = None
        self._chosen: list[m.NextTokens] = []

    def hello(self) -> m.Hello:
        """Says of this process what a device says of itself."""
        return m.Hello(
            software="",
            roles=("backbone", "trainer"),
            data_address="tcp://",
            process_id=os.getpid(),
            threads=self._backbone.threads,
            cores=usable_cores(),
            memory_bytes=usable_memory_bytes(),
            base_memory_bytes=resident_bytes(),
        )

    # ---- outputs

    def outputs(
        self,
        samples: Samples,
        targets: m.Array | Ragged,
        done: Callable[[int], None] = lambda _count: None,
    ) -> m.Array:
        """Computes the adapter's outputs (N, C) float64, as owners do for their samples.

        Args:
            samples: N of them.
            targets: of language models, the token that must follow each one; of other tasks they
                are not looked at.
            done: is told how many samples are done.
        """
        tokens, count = samples.lengths, 0
        lengths = samples.lengths_of
        columns = LOSS_COLUMNS if self._config.generative else self._config.num_outputs
        outputs = np.empty((len(samples), columns))

        def padded_bytes(chosen: m.Array) -> int:
            rows = sum(len(self._layers[s]) * int(lengths[s][chosen].max()) for s in self._layers)
            return 4 * self._config.hidden_size * len(chosen) * rows

        for group in groups_by_length(np.arange(len(samples)), tokens):
            wanted = min(BATCH_BYTES, padded_bytes(group))
            most = min(BATCH_BYTES, self._memory.most_bytes(LIVE_STATES * wanted) / LIVE_STATES)
            for piece in halved(group, tokens, padded_bytes, most):
                chosen = targets.take(piece) if isinstance(targets, Ragged) else None
                some = samples if len(samples) == 1 else samples.take(piece)
                outputs[piece] = self._adapter.outputs(self._batch(some, chosen))
                self._memory.computed(LIVE_STATES * padded_bytes(piece))
                count += len(piece)
                done(count)
        return outputs

    def _batch(self, samples: Samples, targets: Ragged | None) -> Batch:
        """Runs the backbone on samples and gathers what the adapter reads."""
        found, lengths = len(samples), samples.lengths_of
        inputs = {name: ragged.values for name, ragged in samples.inputs.items()}
        wanted = {stream: each.astype(np.int32) for stream, each in lengths.items()}
        parts: dict[Stream, list[m.Array]] = {stream: [] for stream in self._layers}
        for states in self._backbone.compute(wanted, inputs):
            for stream, layers in self._layers.items():
                parts[stream].append(encoded_layers(states, layers, self._dtype))
        hidden = {stream: self._padded(each, lengths[stream]) for stream, each in parts.items()}
        output = self._manifest.output_stream
        padded = np.zeros(found, np.int64)
        if targets is not None:
            padded = np.full(hidden[output].shape[1:3], NOT_COUNTED, np.int64)
            padded[_mask(lengths[output])] = targets.values
        two, ids = self._config.encoder_layers > 0, None
        if self._config.copies:
            ids = np.zeros(hidden[output].shape[1:3], np.int64)
            ids[_mask(lengths[output])] = samples.tokens_of(output).values
        return Batch(
            hidden=hidden[output],
            lengths=lengths[output],
            second_starts=samples.second_starts.astype(np.int64),
            targets=padded,
            encoder_hidden=hidden["encoder"] if two else None,
            encoder_lengths=lengths["encoder"] if two else None,
            tokens=ids,
        )

    def _padded(self, parts: list[m.Array], lengths: m.Array) -> m.Array:
        """(L, B, T, d) float32 of encoded rows (L, tokens, R) of some samples after the others."""
        encoded = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        mask, width = _mask(lengths), self._config.hidden_size
        if len(lengths) == 1:
            padded = np.empty((len(encoded), *mask.shape, width), np.float32)
            decode_into(encoded, padded[:, 0], self._dtype)
            return padded
        padded = np.zeros((len(encoded), *mask.shape, width), np.float32)
        for rows, out in zip(encoded, padded, strict=True):
            decoded = np.empty((len(rows), width), np.float32)
            decode_into(rows, decoded, self._dtype)
            out[mask] = decoded
        return padded

    # ---- text

    def begin(self, request: m.SetUpGeneration) -> None:
        """Gets ready to continue sequences.

        Raises:
            ValueError: the model is no language model.
        """
        if self._head is None:
            raise ValueError("the model is no language model")
        model = LanguageModel(config=self._config, adapter=self._adapter)
        self._backbone.send_as("fp32")
        self._backbone.set_up_generation(request)
        self._generator = Generator(request, model)

    def step(self, request: m.RunBatch) -> m.NextTokens:
        """Takes sequences one token further."""
        self._chosen.clear()
        self._backbone.run(request.batch, 0, request.inputs)
        return self._chosen.pop()

    def release(self, lines: m.Array) -> None:
        """Forgets sequences."""
        self._backbone.release(lines)
        if self._generator is not None:
            self._generator.release(lines)

    def end(self) -> None:
        """Forgets all sequences."""
        self._backbone.end_generation()
        self._generator = None

    def _keep(self, states: m.States) -> None:
        """Takes what the backbone has made of sequences, a few layers at a time."""
        if self._generator is not None and (chosen := self._generator.take(states)) is not None:
            self._chosen.append(chosen)


def _mask(lengths: m.Array) -> m.Array:
    """(B, T) bool, true on tokens."""
    mask: m.Array = np.arange(int(lengths.max())) < lengths[:, None]
    return mask
