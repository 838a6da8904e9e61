"""Everything that a plan is judged by: model, data, devices. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from edge_runtime.contract.manifest import HIDDEN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_runtime.contract.ids import DeviceId
    from edge_runtime.contract.manifest import Manifest, Stream
    from edge_runtime.contract.profile import DeviceProfile

FLOAT_BYTES = 4
"""Boundary tensors and gradients travel in fp32."""

TOKEN_BYTES = 4
"""Token ids travel in int32."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Lengths of the samples in one of their sequences."""

    mean: float
    max: int

    def __post_init__(self) -> None:
        if not 0 < self.mean <= self.max:
            raise ValueError("mean must be positive and at most max")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Everything that a plan is judged by.

    Attributes:
        manifest: of the bundle.
        profiles: the devices, each once.
        num_samples: training samples n.
        fill_samples: distinct samples that the fill computes, evaluation's included.
        tokens: of the samples, by sequence.
        epochs: adapter epochs.
        batch_size: global batch and number of logical shards S.
        num_blocks: blocks up to the last hidden state that the adapter reads.
        cached_layers: hidden states that are cached, ascending.
        cache_row_bytes: of one token at one layer, in the cache's dtype.
        caches: states are stored; not where texts are generated.
        adapter_parameters: trainable values; 0 when not known yet.
        carried_bytes: what a sample of mean length carries from the blocks before a cut to
            those behind it, for cuts 0 .. ``num_blocks``; nothing at both ends.
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
    adapter_parameters: int = 0
    caches: bool = True
    carried_bytes: tuple[float, ...] = dataclasses.field(init=False)

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
        inner = range(1, self.num_blocks)
        carried = (0.0, *(_carried_bytes(self.manifest, self.tokens, cut) for cut in inner), 0.0)
        object.__setattr__(self, "carried_bytes", carried)

    def profile(self, device: DeviceId) -> DeviceProfile:
        """The profile of ``device``.

        Raises:
            KeyError: there is none.
        """
        for profile in self.profiles:
            if profile.device == device:
                return profile
        raise KeyError(device)


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
