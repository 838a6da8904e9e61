"""Opens a finished run with its bundle: what evaluating, predicting and merging begin with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import Observer
from coordinator.data import DataFile, DataSet, LanguageData
from coordinator.runs.run_folder import RunFolder, Settings
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import BadInputError, StoppedError, UsageError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.messages import SampleSet
from export.partition.stages import Bundle, open_bundle

from .inputs import Prepared, tokenize
from .run import run_session

OPTIONS = TrainingOptions(epochs=0, batch_size=16)
"""Of sessions that train nothing; a batch is the most samples or prompts of a group."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """A run's settings, its adapter (as ONNX, too) and the bundle that it was trained with."""

    path: Path
    settings: Settings
    config: AdapterConfig
    adapter: bytes
    bundle: Bundle

    @classmethod
    def open(cls, run: Path, moved_to: Path | None) -> TrainedRun:
        """Opens a run whose bundle may have moved; raises BadInputError for a wrong one."""
        folder = RunFolder(run)
        config, adapter = folder.read_adapter_graph()
        settings, bundle = folder.settings(), bundle_of_run(folder, config, moved_to)
        return cls(path=run, settings=settings, config=config, adapter=adapter, bundle=bundle)

    def refuse_generation(self, generation: GenerationOptions | None) -> None:
        """Raises UsageError if a run that is no language model is to write text."""
        if generation is not None:
            raise UsageError(
                f"{self.path}: is no language model, so it writes no text; leave --generate, "
                "--max-new-tokens, --temperature, --top-k and --top-p out"
            )

    def tokenize(
        self, data: DataSet | LanguageData, file: DataFile | None, observer: Observer
    ) -> Prepared:
        """Tokenizes data, of which language data are from a file, and announces them."""
        files: dict[SampleSet, DataFile] = {"eval": file} if file is not None else {}
        prepared = tokenize(
            self.bundle, self.config, OPTIONS, {"eval": data}, files, self.settings.max_length
        )
        prepared.announce(observer)
        return prepared

    def outputs(self, prepared: Prepared, cluster: Cluster | None, observer: Observer) -> Array:
        """Computes the adapter's outputs (N, C) for prepared samples."""
        settings = self.settings
        record = run_session(
            *(cluster or Cluster(), prepared, observer),
            cache_dtype=settings.cache_dtype,
            cache_quota_bytes=settings.cache_quota_bytes,
            encrypt_cache=settings.encrypt_cache,
            adapter_graph=self.adapter,
        ).record
        if record.outputs_before is None:
            raise StoppedError("the session ended without outputs")
        return record.outputs_before


def bundle_of_run(folder: RunFolder, config: AdapterConfig, moved_to: Path | None) -> Bundle:
    """Opens the bundle that a run's adapter was trained with, where it was or has moved to.

    Raises:
        BadInputError: there is none, or it is another one.
    """
    path = moved_to or Path(folder.settings().bundle)
    if moved_to is None and not path.is_dir():
        raise BadInputError(
            f"{path}: the bundle of {folder.path} is not there any more; "
            "say with --bundle where it is now"
        )
    opened = open_bundle(path)
    if opened.manifest.digest != config.bundle_digest:
        raise BadInputError(
            f"{path}: is not the bundle that {folder.path} was trained with; "
            "give the right one with --bundle"
        )
    return opened
