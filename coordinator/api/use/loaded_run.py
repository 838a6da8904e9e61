"""Keeps a run's model loaded, for programs that ask again and again: :func:`load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coordinator.cluster.observer import NullObserver, Observer
from coordinator.data import DataFile, Prompts, Source
from coordinator.inference.local_model import LocalModel
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.generation import GenerationOptions

from .engines import local_model
from .evaluate import scores
from .generate import generate
from .predict import Prediction, predictions
from .trained_run import TrainedRun


class LoadedRun:
    """A finished run, loaded into this process by :func:`load`; one thread at a time.

    Needs neither PyTorch nor devices, and answers as ``predict`` and ``evaluate`` do.
    """

    def __init__(self, trained: TrainedRun, model: LocalModel) -> None:
        self._trained, self._model = trained, model

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that the run tells apart; empty for other tasks."""
        return self._trained.config.labels

    def predict(
        self,
        texts: Sequence[str] | Path | DataFile,
        *,
        ignored: Sequence[str] = (),
        generation: GenerationOptions | None = None,
        observer: Observer | None = None,
    ) -> tuple[Prediction, ...]:
        """Predicts labels or values of ``texts``, or writes what follows them.

        Args:
            texts: strings, or a file with ``text``; with ``prompt``, ``messages`` or ``source``
                where the run is a language model. Strings are what a user says where it was
                trained on chats.
            ignored: fields that are not to be read, besides those of the training.
            generation: how a language model writes; by default greedily, 64 tokens at most.
            observer: is told of progress.

        Raises:
            BadInputError: the data are wrong.
            InfeasibleError: a line takes more memory than this machine has.
            UsageError: ``texts`` is one string; the run takes pairs, which strings are not; or it
                is no language model, but ``generation`` is given.
        """
        more = (ignored, generation, observer or NullObserver())
        return predictions(self._trained, self._model, texts, *more)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        generation: GenerationOptions | None = None,
        observer: Observer | None = None,
    ) -> tuple[str, ...]:
        """Writes what follows each of ``prompts``, or of an encoder-decoder's sources.

        Args:
            prompts: strings, continued as they are, also where the run was trained on chats.
            generation: how to write; by default greedily, 64 tokens at most.
            observer: is told of progress.

        Raises:
            InfeasibleError: a text may take more memory than this machine has.
            UsageError: ``prompts`` is one string, or the run is no language model.
        """
        if isinstance(prompts, str):
            raise UsageError("prompts is one string; give a list of prompts")
        if not self._trained.config.generative:
            raise UsageError(f"{self._trained.path}: is no language model, so it writes no text")
        places = tuple(f"prompt {number}" for number in range(1, len(prompts) + 1))
        given = Prompts(texts=tuple(prompts), places=places)
        how = generation or GenerationOptions()
        more = (self._model, observer or NullObserver())
        return generate(self._trained, given, None, how, *more) if given.texts else ()

    def evaluate(
        self,
        data: Source,
        *,
        ignored: Sequence[str] = (),
        generation: GenerationOptions | None = None,
        observer: Observer | None = None,
    ) -> dict[str, float]:
        """Computes metrics of the run's adapter on ``data``.

        Args:
            data: a file like the training data, or several.
            ignored: fields that are not to be read, besides those of the training.
            generation: has a language model also write, in this way, what each line asks for:
                ``exact_match`` is the share of lines where it writes what the line has.
            observer: is told of progress.

        Raises:
            BadInputError: the data are wrong.
            InfeasibleError: a line takes more memory than this machine has.
            UsageError: a field that is needed is ignored; or the run is no language model, but
                ``generation`` is given.
        """
        more = (ignored, generation, observer or NullObserver())
        return scores(self._trained, self._model, data, *more)


def load(run: Path, *, bundle: Path | None = None) -> LoadedRun:
    """Loads a finished run's model into this process, to ask it again and again.

    Args:
        run: folder of the run.
        bundle: where the bundle is now, if it has moved.

    Returns:
        What predicts, writes text and evaluates, as the functions of those names do.

    Raises:
        BadInputError: the run or the bundle is wrong.
    """
    trained = TrainedRun.open(Path(run), bundle)
    model = local_model(trained)
    model.load()
    return LoadedRun(trained, model)
