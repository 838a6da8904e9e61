"""Predicts the wall seconds of an adapter epoch: one function a term. Pure."""

import math
from collections.abc import Mapping, Sequence

from coordinator.planner.problem.calibrate import exchange_factor
from coordinator.planner.problem.problem import FLOAT_BYTES, Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.profile import DeviceProfile

GRADIENT_BYTES = 2
"""Gradients travel as half precision."""

ROUNDS = 2
"""Of an all-reduce, one after the other: reduce-scatter, all-gather."""

STATE_VALUES = 4
"""Of a parameter in a trainer's state: as trained, averaged, and the optimizer's two moments."""

PART_SECONDS = 20.0
"""An epoch is trained in parts of about that time; after each, a trainer sends its state."""


def shards_epoch_seconds(problem: Problem, profile: DeviceProfile, shards: int) -> float:
    """Predicts a trainer's own part of an epoch, without the all-reduce.

    What takes time once is divided among the epochs, though it is done in the first.

    Raises:
        ValueError: the device is no trainer.
    """
    if profile.trainer is None:
        raise ValueError(f"{profile.device} does not train")
    steps = steps_per_epoch(problem.num_samples, problem.batch_size)
    samples = problem.num_samples * shards / problem.batch_size
    trainer = profile.trainer
    each = trainer.seconds_per_sample + trainer.seconds_per_new_sample / max(1, problem.epochs)
    return samples * each + steps * trainer.seconds_per_step


def all_reduced_bytes(problem: Problem, trainers: int) -> float:
    """Counts what each of N trainers sends in a step, and receives: 2 (N - 1) / N gradients.

    Reduce-scatter and all-gather (Patarasuk and Yuan, 2009) of (P,) half-precision values.
    """
    return ROUNDS * (trainers - 1) / trainers * problem.adapter_parameters * GRADIENT_BYTES


def all_reduce_handling_seconds(problem: Problem, profile: DeviceProfile, trainers: int) -> float:
    """Computes a trainer's processor time for one all-reduce: rounding, messages, encryption."""
    handling, trainer = profile.handling, profile.trainer
    messages = 2 * ROUNDS * (trainers - 1)  # as many come as go
    seconds = messages * handling.seconds_per_message
    seconds += 2 * all_reduced_bytes(problem, trainers) * handling.seconds_per_byte
    if trainer is not None:
        seconds += problem.adapter_parameters * trainer.seconds_per_exchanged_value
    return seconds / min(1.0, profile.cores)


def all_reduce_link_seconds(problem: Problem, profile: DeviceProfile, trainers: int) -> float:
    """Computes a trainer's link time for one all-reduce; it sends and receives at once."""
    if profile.link is None:
        return 0.0
    slower = min(profile.link.up_bits_per_second, profile.link.down_bits_per_second)
    return 8 * all_reduced_bytes(problem, trainers) / slower


def all_reduce_latency_seconds(trainers: Sequence[DeviceProfile]) -> float:
    """Rounds between the two that are farthest from each other."""
    latencies = sorted(each.link.latency_seconds if each.link else 0.0 for each in trainers)
    return ROUNDS * sum(latencies[-2:])


def all_reduce_seconds(problem: Problem, trainers: Sequence[DeviceProfile]) -> float:
    """Computes the time of one step's all-reduce: everybody waits for the slowest trainer.

    Times what earlier runs have found: relays, threads that wake, steps of unequal length.
    """
    count = len(trainers)
    if count < 2 or not problem.adapter_parameters:
        return 0.0
    slowest = max(
        all_reduce_handling_seconds(problem, each, count)
        + all_reduce_link_seconds(problem, each, count)
        for each in trainers
    )
    found = max(exchange_factor(each) for each in trainers)
    return found * (slowest + all_reduce_latency_seconds(trainers))


def state_bytes(problem: Problem) -> int:
    """Counts what a trainer's state has."""
    return STATE_VALUES * FLOAT_BYTES * problem.adapter_parameters


def saving_seconds(problem: Problem, profile: DeviceProfile) -> float:
    """Computes the time in which a trainer sends its state, and all others wait.

    It is asked for, made into bytes, encrypted, sent, decrypted and written to a file.
    """
    if not problem.trains:
        return 0.0
    size, handling = state_bytes(problem), profile.handling
    seconds = size * (2 * handling.seconds_per_byte + handling.seconds_per_stored_byte)
    seconds = (2 * handling.seconds_per_message + seconds) / min(1.0, profile.cores)
    if profile.link is not None:
        seconds += 2 * profile.link.latency_seconds + 8 * size / profile.link.up_bits_per_second
    return seconds


def savings_seconds(
    problem: Problem, trainers: Sequence[DeviceProfile], trained_seconds: float
) -> float:
    """Computes what saving adds to an epoch: who is the soonest done with it sends its state."""
    parts = max(1, math.ceil(trained_seconds / PART_SECONDS))
    return parts * min(saving_seconds(problem, each) for each in trainers)


def epoch_seconds(problem: Problem, shards: Mapping[DeviceId, int]) -> float:
    """An adapter epoch when each trainer owns so many shards; the slowest sets the pace."""
    trainers = tuple(problem.profile(device) for device in shards)
    steps = steps_per_epoch(problem.num_samples, problem.batch_size)
    slowest = max(
        shards_epoch_seconds(problem, profile, shards[profile.device]) for profile in trainers
    )
    trained = slowest + steps * all_reduce_seconds(problem, trainers)
    return trained + savings_seconds(problem, trainers, trained)
