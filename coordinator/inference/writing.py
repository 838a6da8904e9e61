"""Continues prompts with a model in this process: the only device of a plan."""

import collections
import time
from collections.abc import Callable

from coordinator.protocol.actions import Send
from coordinator.protocol.job import Job
from coordinator.workload.generation import Generation
from edge_runtime.contract.messages import Release, RunBatch
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.serving.resident_model import ResidentModel


def plan_alone(job: Job) -> Plan:
    """Makes the plan of the job's only device, which does all."""
    (device,) = job.devices
    size = job.options.batch_size
    whole = Stage(first=0, last=len(job.manifest.blocks), devices=(StageDevice(device=device),))
    return Plan(
        stages=(whole,),
        owners=(Owner(device=device, shards=tuple(range(size))),),
        num_shards=size,
        micro_batch_size=size,
    )


def write(model: ResidentModel, job: Job, done: Callable[[int], None]) -> list[list[int]]:
    """Continues the job's prompts; ``done`` is told how many have ended.

    Returns:
        The token ids that follow each prompt.
    """
    generation = Generation(job, plan_alone(job), time.monotonic())
    model.begin(generation.set_up())
    try:
        waiting = collections.deque(generation.start())
        while waiting:
            waiting.extend(_carry_out(model, job, generation, waiting.popleft()))
            done(generation.record.finished)
    finally:
        model.end()
    return generation.record.tokens


def _carry_out(model: ResidentModel, job: Job, generation: Generation, send: Send) -> list[Send]:
    match send.message:
        case Release(lines=lines):
            model.release(lines)
        case RunBatch() as request:
            chosen = model.step(request)
            return generation.chosen(job.devices[0], chosen, time.monotonic())
    return []
