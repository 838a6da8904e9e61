"""Refuses samples that this process has no memory for, before they are computed."""

from collections.abc import Callable

from coordinator.protocol.job import Job
from edge_runtime.contract.activations import answering_bytes, block_bytes
from edge_runtime.contract.messages import Hello

NEGLIGIBLE_BYTES = 64 << 20
"""Of the longest sample. Only what takes more is looked at closely, which takes a while."""


def check_memory(job: Job, hello: Callable[[], Hello]) -> None:
    """Checks the longest line against the memory of this process, as sessions do.

    Raises:
        InfeasibleError: it does not fit; names the line and what helps.
    """
    manifest, config, table = job.manifest, job.config, job.tables["eval"]
    lengths = {stream: int(each.max()) for stream, each in table.samples.lengths_of.items()}
    shape = {"hidden_size": manifest.hidden_size, "num_heads": manifest.num_heads}
    needed = max(block_bytes(lengths, **shape).values()) + answering_bytes(config, lengths)
    if needed < NEGLIGIBLE_BYTES:
        return
    from coordinator.planner.plan import planner

    planning = planner(
        manifest,
        config,
        job.options,
        job.tables,
        job.cache_dtype,
        caches=job.continuation is None,
    )
    planning.check_devices({device: hello() for device in job.devices})
