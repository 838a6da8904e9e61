"""Generates text with a run's adapter, for prediction and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coordinator.cluster.host import Cluster, open_host
from coordinator.cluster.observer import Observer
from coordinator.data import Prompts
from coordinator.planner.plan import planner
from coordinator.protocol.job import Continuation, Job
from coordinator.samples.samples import SampleTable
from coordinator.session.machine import Session
from coordinator.tokenization import PromptTokenizer
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.messages import SampleSet
from export.partition.stages import Bundle

from .run import serve

BATCH_SIZE = 16
"""Prompts of a group at most, and shards that answering devices share."""


def generate(
    bundle: Bundle,
    config: AdapterConfig,
    adapter: bytes,
    prompts: Prompts,
    path: Path | None,
    options: GenerationOptions,
    cluster: Cluster,
    watcher: Observer,
) -> tuple[str, ...]:
    """Continues prompts.

    Args:
        bundle: of the run.
        config: of the run's adapter.
        adapter: the same as ONNX.
        prompts: what to continue.
        path: where they are from; None for the command line.
        options: how.
        cluster: which devices compute.
        watcher: is told of progress.

    Returns:
        What follows each prompt, without special tokens.

    Raises:
        BadInputError: the prompts or the bundle are not what they must be.
        StoppedError: a device was lost.
    """
    manifest = bundle.manifest
    tokenizer = PromptTokenizer(bundle.path, manifest, options.max_new_tokens)
    tokenized = tokenizer.encode(prompts, path)
    watcher.prepared(len(prompts), 0)
    if tokenized.num_truncated:
        watcher.note(_cut(config, tokenized.num_truncated, tokenizer.limit, manifest.max_length))
    tokens = generate_tokens(
        bundle,
        config,
        adapter,
        Continuation(prompts=tokenized.samples, options=options),
        cluster,
        watcher,
    )
    contexts = next(iter(tokenized.samples.inputs.values()))
    return tuple(
        tokenizer.decode(contexts[i].tolist(), written) for i, written in enumerate(tokens)
    )


def generate_tokens(
    bundle: Bundle,
    config: AdapterConfig,
    adapter: bytes,
    continuation: Continuation,
    cluster: Cluster,
    watcher: Observer,
) -> list[list[int]]:
    """As :func:`generate`, from token ids to token ids."""
    longest = continuation.longest(bundle.manifest)
    table = SampleTable.make(longest, np.zeros(len(longest), np.int64), BATCH_SIZE)
    tables: dict[SampleSet, SampleTable] = {"eval": table}
    options = TrainingOptions(epochs=0, batch_size=BATCH_SIZE)
    with open_host(cluster) as host:
        job = Job(
            manifest=bundle.manifest,
            config=config,
            options=options,
            tables=tables,
            devices=host.devices,
            make_plan=planner(
                bundle.manifest, config, options, tables, cache_dtype="fp32", caches=False
            ),
            cache_dtype="fp32",
            adapter_graph=adapter,
            continuation=continuation,
        )
        session = Session(job)
        serve(host, bundle, session, watcher)
    generation = session.record.generation
    if generation is None:
        raise StoppedError("the session ended without a text")
    return generation.tokens


def _cut(config: AdapterConfig, count: int, limit: int, longest: int) -> str:
    if config.task == "seq2seq":
        return f"{count} sources are longer than the model's {longest} tokens; their ends were cut"
    return (
        f"{count} prompts are longer than {limit} tokens, which leave room for what is to be "
        "written; their beginnings were cut"
    )
