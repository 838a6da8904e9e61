"""Refuses lines that no device can hold, by estimates, before anything is measured. Pure."""

import dataclasses
from collections.abc import Mapping

from edge_runtime.contract.activations import answering_bytes, training_bytes
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Hello
from edge_runtime.contract.profile import BlockTiming, DeviceProfile, TrainerProfile

from .problem.problem import Problem
from .search.feasibility import is_feasible
from .search.longest_line import explain_length

MOST_DEVICES = 10
"""Of more, not every set of owners is looked at before they are measured."""

AMPLE_BYTES = 1 << 62

LIBRARIES_BYTES = 300 << 20
"""What training loads, roughly: for lengths that are advised, which should then fit."""


def check_memory(problem: Problem, hellos: Mapping[DeviceId, Hello]) -> None:
    """Checks the longest line against what the devices say of their memory.

    Estimates are low: libraries that training loads are not in them. What passes here may
    still be refused once the devices are measured.

    Raises:
        InfeasibleError: no plan can hold it; names the line and what helps.
    """
    known = all(hello.memory_bytes for hello in hellos.values())
    if not known or not 0 < len(hellos) <= MOST_DEVICES:
        return
    if is_feasible(_with_devices(problem, hellos, 0)):
        return
    for libraries_bytes in (LIBRARIES_BYTES, 0):
        explained = explain_length(_with_devices(problem, hellos, libraries_bytes))
        if explained is not None:
            raise InfeasibleError(explained)


def _with_devices(
    problem: Problem, hellos: Mapping[DeviceId, Hello], libraries_bytes: int
) -> Problem:
    profiles = (_nominal(problem, *entry, libraries_bytes) for entry in hellos.items())
    return dataclasses.replace(problem, profiles=tuple(profiles))


def _nominal(
    problem: Problem, device: DeviceId, hello: Hello, libraries_bytes: int
) -> DeviceProfile:
    """Makes a profile whose memory is known and whose times mean nothing."""
    timing = (BlockTiming(batch_size=1, sequence_length=1, seconds_per_token=1.0),)
    classes = {block.block_class for block in problem.manifest.blocks}
    trainer = None
    if not problem.trains or "trainer" in hello.roles:
        held = libraries_bytes * problem.trains
        if problem.adapter is not None:
            count = training_bytes if problem.trains else answering_bytes
            held += count(problem.adapter, problem.longest)
        trainer = TrainerProfile(seconds_per_sample=1.0, memory_bytes=held)
    return DeviceProfile(
        device=device,
        roles=hello.roles,
        memory_bytes=hello.memory_bytes,
        base_memory_bytes=hello.base_memory_bytes,
        storage_bytes=AMPLE_BYTES,
        cores=hello.cores,
        threads=hello.threads,
        blocks=dict.fromkeys(classes, timing) if "backbone" in hello.roles else {},
        trainer=trainer,
    )
