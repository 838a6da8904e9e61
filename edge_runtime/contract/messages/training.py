"""Requests about training: samples, adapters and their states, groups and epochs."""

import dataclasses

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.checks import check_array, check_keys, require
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import FileSpec

from .base import (
    NOTHING_SUMMED,
    Array,
    EpochSums,
    Lengths,
    Message,
    SampleSet,
    check_lengths,
    check_token_rows,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnSamples(Message):
    """Tells a device the samples that it trains on or evaluates. Answered by ``SamplesReady``.

    Attributes:
        total: number of samples over all devices.
        indices: (N,) int32, each sample's number in its data file.
        keys: (N, 32) uint8.
        ranks: (N,) int64, place of each sample in the order of keys; see :mod:`.order`.
        lengths: tokens of each sample in each of its sequences, (N,) int32.
        second_starts: (N,) int32, first token of ``text_pair``'s segment, 0 for none.
        targets: (N,) int64 classes, or standardized float32 values (see
            :meth:`AdapterConfig.standardized`); or, for language models, int32, one for
            each token of the decoder's sequence, sample after sample.
        tokens: ids of the decoder's sequences, int32, as a language model's ``targets``, where
            an adapter reads them: with ``AdapterConfig.copies``; otherwise None.
    """

    which: SampleSet
    total: int
    indices: Array
    keys: Array
    ranks: Array
    lengths: Lengths
    second_starts: Array
    targets: Array
    tokens: Array | None = None

    def __post_init__(self) -> None:
        count = len(self.keys)
        check_keys(self.keys)
        check_array("indices", self.indices, np.int32, (count,))
        check_array("ranks", self.ranks, np.int64, (count,))
        check_array("second_starts", self.second_starts, np.int32, (count,))
        check_lengths(self.lengths, count)
        expected = count
        if self.targets.dtype == np.int32:
            decodes = "decoder" in self.lengths
            require(decodes, "targets are tokens, but no sample has a decoder's sequence")
            expected = int(self.lengths["decoder"].sum())
        fits = self.targets.shape == (expected,)
        require(fits, f"targets are {self.targets.shape}, not ({expected},)")
        check_token_rows(self.tokens, self.lengths)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetUpTraining(Message):
    """Make the adapter. Answered by ``TrainingReady``.

    A device that has the adapter of this ``run`` already keeps it.

    Attributes:
        run: names the training; its adapter outlives a session that breaks off.
        state: a trainer state to go on from; empty for a new adapter.
        sums: of the epoch that ``state`` is in.
        adapter_graph: the trained adapter as ONNX, where nothing will be trained; fetched like
            weight files.
        head: a language model's frozen head; fetched like weight files.
        adapter_init: initial weights of a new adapter; fetched likewise.
    """

    config: AdapterConfig
    options: TrainingOptions
    total_steps: int
    state: Array
    run: str = ""
    sums: EpochSums = NOTHING_SUMMED
    adapter_graph: FileSpec | None = None
    head: FileSpec | None = None
    adapter_init: FileSpec | None = None

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """Files to fetch before."""
        files = (self.adapter_graph, self.head, self.adapter_init)
        return tuple(file for file in files if file is not None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakeState(Message):
    """Go on from another trainer's state. Answered by ``StateTaken``.

    Attributes:
        data: the bytes of a safetensors file.
        step: updates that it has behind it.
        sums: of the epoch that it is in.
    """

    data: Array
    step: int
    sums: EpochSums


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CountTokens(Message):
    """Count how likely tokens are in some of your samples. Answered by ``TokenCounts``.

    The samples are readable, and were named as training samples.
    """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FormGroup(Message):
    """Train together with these trainers, in this term. Answered by ``GroupFormed``.

    Attributes:
        trainers: all of them, in the order that fixes who reduces which part.
        run: what the adapter is known by from now on, as in ``SetUpTraining``: one that went
            another way is not gone on with.
        token_counts: what candidates are searched and others sampled by from the first step on,
            (2, V) int64: the sum of all trainers' ``TokenCounts``; None where the adapter's state
            has it, or nothing is sampled.
    """

    trainers: tuple[DeviceId, ...]
    run: str = ""
    token_counts: Array | None = None

    def __post_init__(self) -> None:
        if self.token_counts is not None:
            check_array(
                "token_counts", self.token_counts, np.int64, (2, self.token_counts.size // 2)
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainEpoch(Message):
    """Train steps of an epoch with the other trainers of the group. Answered by ``EpochDone``.

    Attributes:
        epoch: from 1.
        first_step: in the epoch, from 0; those before it are applied already.
        num_steps: how many; None for all that are left.
    """

    epoch: int
    first_step: int = 0
    num_steps: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Message):
    """Compute the outputs of the evaluation samples. Answered by ``Outputs``.

    ``indices`` (N,) int32 are those wanted of the ones in ``OwnSamples``; None for all of them.
    """

    indices: Array | None = None

    def __post_init__(self) -> None:
        if self.indices is not None:
            check_array("indices", self.indices, np.int32, (self.indices.size,))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendState(Message):
    """Send adapter and optimizer state. Answered by ``TrainerState``."""
