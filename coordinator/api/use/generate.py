"""Generates text with a run's adapter, for prediction and evaluation."""

from collections.abc import Callable

import numpy as np

from coordinator.cluster.observer import Observer
from coordinator.data import Prompts
from coordinator.inference.options import ANSWERING
from coordinator.protocol.job import Continuation
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.generation import GenerationOptions

from .engines import Engine
from .trained_run import TrainedRun


def generate(
    trained: TrainedRun,
    prompts: Prompts,
    path: str | None,
    options: GenerationOptions,
    engine: Engine,
    observer: Observer,
) -> tuple[str, ...]:
    """Continues each of the prompts, which are from ``path`` or the command line.

    Returns:
        What follows each prompt, without special tokens.

    Raises:
        BadInputError: the prompts or the bundle are not what they must be.
        StoppedError: a device was lost.
    """
    bundle = trained.bundle
    tokenizer = trained.prompt_tokenizer(options.max_new_tokens)
    tokenized = tokenizer.encode(prompts, path)
    observer.prepared(len(prompts), 0)
    if count := tokenized.num_truncated:
        cut = (
            f"{count} prompts are longer than {tokenizer.limit} tokens, which leave room for what "
            "is to be written; their beginnings were cut"
        )
        if trained.config.task == "seq2seq":
            longest = f"the model's {bundle.manifest.max_length} tokens"
            cut = f"{count} sources are longer than {longest}; their ends were cut"
        observer.note(cut)
    continuation = Continuation(prompts=tokenized.samples, options=options)
    tokens = generate_tokens(
        *(trained, continuation, engine, observer), line_name=prompts.places.__getitem__
    )
    contexts = next(iter(tokenized.samples.inputs.values()))
    return tuple(
        tokenizer.decode(contexts[i].tolist(), written) for i, written in enumerate(tokens)
    )


def generate_tokens(
    trained: TrainedRun,
    continuation: Continuation,
    engine: Engine,
    observer: Observer,
    line_name: Callable[[int], str] = "prompt {}".format,
) -> list[list[int]]:
    """Continues prompts as :func:`generate`, from token ids to token ids."""
    longest = continuation.longest(trained.bundle.manifest)
    table = SampleTable.make(
        longest, np.zeros(len(longest), np.int64), ANSWERING.batch_size, line_name
    )
    return engine.continued(continuation, table, observer)
