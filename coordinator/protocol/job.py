"""Defines a session's job: model, data, devices, options. Immutable."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np

from coordinator.samples.samples import SampleTable
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.checks import Array
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import FileSpec, Manifest
from edge_runtime.contract.messages import (
    NOTHING_SUMMED,
    CacheDtype,
    EpochSums,
    Hello,
    SampleSet,
    Setting,
)
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.plan import Owner, Plan, Prediction
from edge_runtime.contract.profile import DeviceProfile
from edge_runtime.contract.sample import Ragged, Samples

Keep: TypeAlias = Literal["best", "last"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Continuation:
    """Says how prompts are to be continued."""

    prompts: Samples
    options: GenerationOptions

    def longest(self, manifest: Manifest) -> Samples:
        """Pads the prompts to the length that they may reach, which a plan must reckon with."""
        output = manifest.output_stream
        inputs = {}
        for name, ragged in self.prompts.inputs.items():
            grown = np.zeros(len(ragged), np.int64)
            if self.prompts.streams[name] == output:
                room = np.maximum(manifest.max_length - ragged.lengths, 0)
                grown = np.minimum(self.options.max_new_tokens, room)
            inputs[name] = Ragged.from_rows(
                np.pad(ragged[i], (0, int(more))) for i, more in enumerate(grown)
            )
        return dataclasses.replace(self.prompts, inputs=inputs)


class Judge(Protocol):
    """Predicts what plans take on devices as they are known now; pure."""

    def predict(self, profiles: Sequence[DeviceProfile], plan: Plan) -> Prediction:
        """Predicts a plan's times."""

    def owners(self, profiles: Sequence[DeviceProfile]) -> Sequence[tuple[Owner, ...]]:
        """Lists the owners that there could be, those with the shortest epochs first."""

    def moving_seconds(
        self,
        profiles: Sequence[DeviceProfile],
        plan: Plan,
        moves: Mapping[tuple[DeviceId, DeviceId], int],
        computed: int,
        new: Sequence[DeviceId],
    ) -> float:
        """Predicts how long it takes until ``plan``'s owners can train.

        ``moves`` has the samples that go from one device to another, ``computed`` counts those
        that nobody holds, and ``new`` trainers have to take the adapter over.
        """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """Defines everything that a session must know before it starts.

    Attributes:
        manifest: of the bundle.
        config: shape of the adapter.
        options: of the training; ``epochs`` is 0 for evaluation only.
        tables: training samples (absent for evaluation only) and evaluation samples.
        devices: who takes part.
        check_devices: before they are measured; raises InfeasibleError.
        make_plan: from profiles to a plan; pure; raises InfeasibleError.
        judge: of plans; None where none is to be made anew between epochs, or predicted.
        cache_dtype: how states are cached.
        cache_quota_bytes: limit of each device's cache.
        encrypt_cache: devices keep states in encrypted caches.
        state: trainer state to start from; empty for a new adapter.
        adapter_graph: the trained adapter as ONNX, where nothing is to be trained.
        steps_done: updates that ``state`` has behind it.
        sums: of the epoch that ``state`` is in.
        session: drawn for this session; every message bears it.
        run: drawn for the run; a device keeps its adapter under this name for a while.
        wait_seconds: how long to wait for devices when those that are left do not suffice; None
            for as long as it takes.
        settings: to be tried, of which the best one is kept; the first is the job's own. Empty
            where nothing is tuned.
        evaluate_before: compute outputs before training too.
        keep: which epoch's adapter is wanted: the best on evaluation samples, see
            :func:`.best_epoch`, or the last one.
        patience: epochs after the best one that end training; 0 for never.
        score: metrics of the outputs of all evaluation samples, ``loss`` among them.
        evaluated: metrics of epochs that were evaluated in earlier sessions of the run.
        heartbeat_seconds: how often devices are to be heard.
        local: the devices run on this machine, so their process ids mean something here.
        only_plan: end once the plan is made.
        measures_thoroughly: devices take seconds to measure themselves, not tenths of one.
        worth_measuring: seconds that devices should measure themselves for before a plan is
            made, by what is known of them: only where it pays.
        continuation: prompts to continue instead of anything else; the table of evaluation
            samples then has them as long as they may become.
    """

    manifest: Manifest
    config: AdapterConfig
    options: TrainingOptions
    tables: Mapping[SampleSet, SampleTable]
    devices: tuple[DeviceId, ...]
    make_plan: Callable[[Sequence[DeviceProfile]], Plan]
    judge: Judge | None = None
    cache_dtype: CacheDtype = "fp16"
    cache_quota_bytes: int | None = None
    encrypt_cache: bool = False
    state: bytes = b""
    adapter_graph: bytes = b""
    steps_done: int = 0
    sums: EpochSums = NOTHING_SUMMED
    session: str = ""
    run: str = ""
    wait_seconds: float | None = 0.0
    settings: tuple[Setting, ...] = ()
    evaluate_before: bool = True
    keep: Keep = "last"
    patience: int = 0
    score: Callable[[Array], Mapping[str, float]] | None = None
    evaluated: Mapping[int, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    heartbeat_seconds: float = 2.0
    local: bool = False
    only_plan: bool = False
    measures_thoroughly: bool = False
    worth_measuring: Callable[[Sequence[DeviceProfile]], Mapping[DeviceId, float]] = lambda _: {}
    continuation: Continuation | None = None
    check_devices: Callable[[Mapping[DeviceId, Hello]], None] = lambda _: None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; 0 where nothing is trained."""
        if (train := self.tables.get("train")) is None:
            return 0
        return steps_per_epoch(len(train), self.options.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.options.epochs * self.steps_per_epoch

    @property
    def evaluates_epochs(self) -> bool:
        """Outputs are computed after each epoch."""
        chooses = self.keep == "best" or self.patience > 0
        return chooses and self.score is not None and "eval" in self.tables and self.total_steps > 0

    @property
    def copies(self) -> bool:
        """An adapter of the job reads token ids, which owners must therefore be told."""
        return self.config.copies or any(each.config.copies for each in self.settings)

    @property
    def adapter_file(self) -> FileSpec | None:
        """File of ``adapter_graph``, by which devices fetch it; None where there is none."""
        return _adapter_file(self.adapter_graph) if self.adapter_graph else None


@functools.lru_cache(maxsize=1)
def _adapter_file(graph: bytes) -> FileSpec:
    digest = Sha256(hashlib.sha256(graph).hexdigest())
    return FileSpec(path="adapter.onnx", bytes=len(graph), sha256=digest)
