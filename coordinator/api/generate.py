"""Generates text with a run's adapter, for prediction and evaluation."""

from collections.abc import Callable

import numpy as np

from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import Observer
from coordinator.data import Prompts
from coordinator.protocol.job import Continuation
from coordinator.samples.samples import SampleTable
from coordinator.tokenization import PromptTokenizer
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.generation import GenerationOptions

from .inputs import Prepared
from .run import run_session
from .trained_run import OPTIONS, TrainedRun


def generate(
    trained: TrainedRun,
    prompts: Prompts,
    path: str | None,
    options: GenerationOptions,
    cluster: Cluster | None,
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
    tokenizer = PromptTokenizer(bundle.path, bundle.manifest, options.max_new_tokens)
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
        *(trained, continuation, cluster, observer), line_name=prompts.places.__getitem__
    )
    contexts = next(iter(tokenized.samples.inputs.values()))
    return tuple(
        tokenizer.decode(contexts[i].tolist(), written) for i, written in enumerate(tokens)
    )


def generate_tokens(
    trained: TrainedRun,
    continuation: Continuation,
    cluster: Cluster | None,
    observer: Observer,
    line_name: Callable[[int], str] = "prompt {}".format,
) -> list[list[int]]:
    """Continues prompts as :func:`generate`, from token ids to token ids."""
    longest = continuation.longest(trained.bundle.manifest)
    table = SampleTable.make(
        longest, np.zeros(len(longest), np.int64), OPTIONS.batch_size, line_name
    )
    prepared = Prepared(
        bundle=trained.bundle, config=trained.config, options=OPTIONS, tables={"eval": table}
    )
    record = run_session(
        *(cluster or Cluster(), prepared, observer),
        cache_dtype="fp32",
        continuation=continuation,
        adapter_graph=trained.adapter,
    ).record
    if record.generation is None:
        raise StoppedError("the session ended without a text")
    return record.generation.tokens
