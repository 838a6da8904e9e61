"""Describes everything that a plan is judged by: model, data, devices. Pure."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import HIDDEN_PREFIX, Manifest, Stream
from edge_runtime.contract.profile import DeviceProfile

Array: TypeAlias = "np.ndarray[Any, Any]"

FLOAT_BYTES = 4
"""Activations tensors travel in fp32."""

TOKEN_BYTES = 4
"""Token ids travel in int32."""

MICRO_BATCH_SIZES = (32, 16, 8, 4, 2, 1)
"""Sizes that plans may have, in samples; larger ones are no faster and hold more memory."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """Padded lengths of the fill's micro-batches of some size.

    Attributes:
        per_sample: tokens that are computed for a sample, padding included, on average.
        length: of the micro-batch that a computed token is in, on average: what decides how
            many others it attends to.
    """

    per_sample: float
    length: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Lengths of the samples in one of their sequences.

    Attributes:
        mean: of a sample.
        max: of any sample.
        usual: of the longest sample that is no outlier; 0 where none is one.
        padded: by micro-batch size; a size that is not there counts as not padded.
    """

    mean: float
    max: int
    usual: int = 0
    padded: Mapping[int, Padded] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.mean <= self.max:
            raise ValueError("mean must be positive and at most max")
        if not 0 <= self.usual <= self.max:
            raise ValueError("usual must not be negative and at most max")

    def computed(self, micro_batch_size: int) -> Padded:
        """Returns the tokens that are computed for a sample in micro-batches of that size."""
        plain = Padded(per_sample=self.mean, length=self.mean)
        return self.padded.get(micro_batch_size, plain)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Everything that a plan is judged by.

    Attributes:
        manifest: of the bundle.
        profiles: the devices, each once.
        num_samples: training samples n; where nothing is trained, those that are answered.
        fill_samples: distinct samples that the fill computes, evaluation's included.
        tokens: of the samples, by sequence.
        epochs: adapter epochs; where nothing is trained, the one pass that answers.
        batch_size: global batch and number of logical shards S.
        num_blocks: blocks B up to the last hidden state that the adapter reads.
        cached_layers: hidden states that are cached, ascending.
        cache_row_bytes: of one token at one layer, in the cache's dtype.
        loss_bytes: cached besides, of a sample of mean length, for a language model's loss.
        caches: states are stored; not where texts are generated.
        adapter: that is trained or used.
        longest_line: what people call the sample that takes most memory; empty if unknown.
        trains: the samples are trained on, not only answered.
        adapter_parameters: trainable values; 0 where nothing is trained.
        carried_bytes: (B + 1,) what a sample of mean length carries from the blocks before a
            cut to those behind it; nothing at both ends.
        rows_before: (B + 1,) rows that are cached of a sample of mean length, of the blocks
            before a cut.
        blocks_before: (B + 1,) of each sequence: its blocks before a cut.
        weight_bytes: (B + 1, B + 1) weight files of blocks ``[first, last)``; one that several
            blocks share counts once.
    """

    manifest: Manifest
    profiles: tuple[DeviceProfile, ...]
    num_samples: int
    fill_samples: int
    tokens: Mapping[Stream, Tokens]
    epochs: int
    batch_size: int
    num_blocks: int
    cached_layers: tuple[int, ...]
    cache_row_bytes: int
    loss_bytes: float = 0.0
    adapter_parameters: int = 0
    caches: bool = True
    adapter: AdapterConfig | None = None
    longest_line: str = ""
    trains: bool = False
    carried_bytes: Array = dataclasses.field(init=False)
    rows_before: Array = dataclasses.field(init=False)
    blocks_before: Mapping[Stream, Array] = dataclasses.field(init=False)
    weight_bytes: Array = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        names = [profile.device for profile in self.profiles]
        if len(set(names)) != len(names):
            raise ValueError("a device has two profiles")
        if not 1 <= self.num_blocks <= len(self.manifest.blocks):
            raise ValueError(f"num_blocks is {self.num_blocks} of {len(self.manifest.blocks)}")
        if min(self.num_samples, self.fill_samples, self.epochs) < 0 or self.batch_size < 1:
            raise ValueError("samples and epochs must not be negative, batch_size positive")
        if not set(self.tokens) >= set(self.manifest.streams):
            raise ValueError("tokens must have every sequence of the backbone")
        blocks, cached = self.manifest.blocks[: self.num_blocks], set(self.cached_layers)
        inner = range(1, self.num_blocks)
        carried = (0.0, *(_carried_bytes(self.manifest, self.tokens, cut) for cut in inner), 0.0)
        rows = [
            self.tokens[block.stream].mean if layer in cached else 0.0
            for layer, block in enumerate(blocks)
        ]
        streams = {
            stream: _before([block.stream == stream for block in blocks])
            for stream in self.manifest.streams
        }
        derived = {
            "carried_bytes": np.array(carried),
            "rows_before": _before(rows),
            "blocks_before": streams,
            "weight_bytes": _weight_bytes(self.manifest, self.num_blocks),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def longest(self) -> dict[Stream, int]:
        """The most tokens of any sample, by sequence."""
        return {stream: self.tokens[stream].max for stream in self.manifest.streams}

    @property
    def usual(self) -> dict[Stream, int]:
        """Likewise, without outliers; these come in micro-batches of their own, if any."""
        if not self.caches:
            return self.longest
        every = {stream: self.tokens[stream] for stream in self.manifest.streams}
        return {stream: tokens.usual or tokens.max for stream, tokens in every.items()}

    def profile(self, device: DeviceId) -> DeviceProfile:
        """The profile of ``device``.

        Raises:
            KeyError: there is none.
        """
        for profile in self.profiles:
            if profile.device == device:
                return profile
        raise KeyError(device)


def _before(values: list[float] | list[bool]) -> Array:
    """Sums of all values before each place, and of all."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _weight_bytes(manifest: Manifest, num_blocks: int) -> Array:
    sizes = {file.path: file.bytes for file in manifest.files}
    table = np.zeros((num_blocks + 1, num_blocks + 1))
    for first in range(num_blocks):
        seen: set[str] = set()
        total = 0
        for last, block in enumerate(manifest.blocks[first:num_blocks], first + 1):
            new = set(block.weights) - seen
            total += sum(sizes[path] for path in new)
            seen |= new
            table[first, last] = total
    return table


def _carried_bytes(manifest: Manifest, tokens: Mapping[Stream, Tokens], cut: int) -> float:
    of_input = {spec.name: spec.stream for spec in manifest.inputs}
    total = 0.0
    for name in manifest.carried(cut):
        if name in of_input:
            total += tokens[of_input[name]].mean * TOKEN_BYTES
        else:
            block = manifest.blocks[int(name.removeprefix(HIDDEN_PREFIX))]
            total += tokens[block.stream].mean * manifest.hidden_size * FLOAT_BYTES
    return total
