"""Opens a finished run with its bundle: what evaluating, predicting and merging begin with."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from coordinator.api.inputs import Prepared, sample_tokenizer, tokenize
from coordinator.cluster.observer import Observer
from coordinator.data import DataFile, DataSet, LanguageData
from coordinator.inference.options import ANSWERING
from coordinator.runs.run_folder import RunFolder, Settings
from coordinator.tokenization import PromptTokenizer, SampleTokenizer
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.messages import SampleSet
from export.partition.stages import Bundle, open_bundle


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run's settings, its adapter (as ONNX) and the bundle that it was trained with.

    Tokenizers are loaded when they are first used, and kept.
    """

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
            self.bundle,
            self.config,
            ANSWERING,
            {"eval": data},
            files,
            self.settings.max_length,
            tokenizer=self._sample_tokenizer if isinstance(data, DataSet) else None,
        )
        prepared.announce(observer)
        return prepared

    @functools.cached_property
    def _sample_tokenizer(self) -> SampleTokenizer:
        return sample_tokenizer(self.bundle, self.settings.max_length)

    @functools.cached_property
    def _prompt_tokenizers(self) -> dict[int, PromptTokenizer]:
        return {}

    def prompt_tokenizer(self, max_new_tokens: int) -> PromptTokenizer:
        """Loads what makes token ids of prompts that leave room for so many tokens.

        Raises:
            BadInputError: the bundle's tokenizer cannot be used for them.
        """
        found = self._prompt_tokenizers.get(max_new_tokens)
        if found is None:
            found = PromptTokenizer(self.bundle.path, self.bundle.manifest, max_new_tokens)
            self._prompt_tokenizers[max_new_tokens] = found
        return found


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
