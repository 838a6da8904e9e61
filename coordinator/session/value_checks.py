"""Checks what devices have measured and computed: possible, finite, and what was asked for. Pure.

A planner or an average that is fed with one impossible number fails far from whoever sent it, or
is silently wrong; so each number is checked where it comes in, and its sender is named.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from coordinator.protocol.job import Job
from edge_runtime.contract.adapter import OPTIMIZER_PREFIX
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import BadInputError, DeviceFailedError, UnresumableError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import EpochSums, LinkMeasured
from edge_runtime.contract.profile import (
    BlockTiming,
    DeviceProfile,
    HandlingProfile,
    KnownTimes,
    Role,
    TrainerProfile,
)
from edge_runtime.contract.tensors import read_tensors
from edge_runtime.contract.text import excerpt

MIN_SECONDS = 1e-13
"""Least time of a token in a block or of a sample: ten million times below any device's."""

MAX_SECONDS = 1e5
"""Most time of anything that is measured: a day."""

MAX_BYTES = 1 << 52
MAX_CORES = 1 << 16
MAX_VALUES = 1 << 40
MAX_TIMINGS = 64
MAX_BLOCK_CLASSES = 1024
MOST_COUNTS = 1 << 52
MIN_BITS_PER_SECOND, MAX_BITS_PER_SECOND = 1.0, 1e15


def check_profile(
    device: DeviceId,
    profile: DeviceProfile,
    manifest: Manifest,
    roles: Collection[Role] | None = None,
) -> None:
    """Refuses a profile that a device cannot have, or that answers another request.

    Args:
        device: that measured itself, or whose profile was kept.
        profile: what it says.
        manifest: of the bundle that it was asked about.
        roles: that the device offers, where they are known.

    Raises:
        DeviceFailedError: names what is wrong.
    """
    if profile.device != device:
        raise DeviceFailedError(f"{device}: sent the profile of another device")
    problem = (
        _wrong_blocks(profile, manifest)
        or _wrong_sizes(profile)
        or _wrong_times(profile)
        or _wrong_link(profile)
        or ("" if roles is None or set(profile.roles) <= set(roles) else "roles it does not offer")
    )
    if problem:
        raise DeviceFailedError(f"{device}: its profile has {problem}")


def check_times(device: DeviceId, times: KnownTimes) -> None:
    """Refuses times that a device cannot have.

    Raises:
        DeviceFailedError: names what is wrong.
    """
    if problem := _wrong_times(times):
        raise DeviceFailedError(f"{device}: what is known of it has {problem}")


def _wrong_blocks(profile: DeviceProfile, manifest: Manifest) -> str:
    if "backbone" not in profile.roles:
        return ""
    asked = {block.block_class for block in manifest.blocks if block.kind == "layer"}
    if missing := asked - profile.blocks.keys():
        return f"no times of block {excerpt(min(missing))}"
    return "" if len(profile.blocks) <= MAX_BLOCK_CLASSES else "times of too many blocks"


def _wrong_sizes(profile: DeviceProfile) -> str:
    sizes = [profile.memory_bytes, profile.base_memory_bytes, profile.storage_bytes]
    values = 0
    if profile.trainer is not None:
        sizes.append(profile.trainer.memory_bytes)
        values = profile.trainer.parameters
    if not 0 <= min(sizes) <= max(sizes) <= MAX_BYTES:
        return "an impossible size of memory or storage"
    if not 0 < max(profile.threads, profile.cores) <= MAX_CORES:
        return "an impossible number of cores or threads"
    return "" if 0 <= values <= MAX_VALUES else "an impossible number of parameters"


def _wrong_times(profile: DeviceProfile | KnownTimes) -> str:
    return _wrong_timings(profile.blocks) or _wrong_trainer(profile.trainer, profile.handling)


def _wrong_timings(blocks: Mapping[str, Sequence[BlockTiming]]) -> str:
    for name, timings in blocks.items():
        if len(timings) > MAX_TIMINGS:
            return f"{len(timings)} timings of block {excerpt(name)}"
        for timing in timings:
            seconds = timing.seconds_per_token
            shape = max(timing.batch_size, timing.sequence_length)
            if not MIN_SECONDS <= seconds <= MAX_SECONDS or shape > MAX_VALUES:
                return f"an impossible time of block {excerpt(name)}: {seconds:.3g} s a token"
            if not 0 <= timing.seconds_per_run <= MAX_SECONDS:
                return f"an impossible time of block {excerpt(name)} for each micro-batch"
    return ""


def _wrong_trainer(trainer: TrainerProfile | None, handling: HandlingProfile) -> str:
    if trainer is not None and not MIN_SECONDS <= trainer.seconds_per_sample <= MAX_SECONDS:
        return f"an impossible time of training: {trainer.seconds_per_sample:.3g} s a sample"
    others = [*dataclasses.astuple(handling)]
    if trainer is not None:
        others += [trainer.seconds_per_step, trainer.seconds_per_exchanged_value]
        others.append(trainer.seconds_per_new_sample)
    possible = all(0 <= seconds <= MAX_SECONDS for seconds in others)
    return "" if possible else "an impossible time of handling data or of training steps"


def _wrong_link(profile: DeviceProfile) -> str:
    link = profile.link
    if link is None:
        return ""
    rates = (link.up_bits_per_second, link.down_bits_per_second)
    return (
        "" if all(_is_link(rate, link.latency_seconds) for rate in rates) else "an impossible link"
    )


def check_link(device: DeviceId, message: LinkMeasured) -> None:
    """Raises DeviceFailedError unless a link of that rate and latency can be."""
    if not _is_link(message.bits_per_second, message.latency_seconds):
        raise DeviceFailedError(
            f"{device}: sent an impossible link to {message.peer}: "
            f"{message.bits_per_second:.3g} bit/s, {message.latency_seconds:.3g} s"
        )


def _is_link(bits_per_second: float, latency_seconds: float) -> bool:
    possible = MIN_BITS_PER_SECOND <= bits_per_second <= MAX_BITS_PER_SECOND
    return possible and 0 <= latency_seconds <= MAX_SECONDS


def check_duration(device: DeviceId, seconds: float) -> None:
    """Raises DeviceFailedError where nobody can have worked for so long."""
    if not seconds <= MAX_SECONDS:
        raise DeviceFailedError(f"{device}: says that steps took {seconds:.3g} s")


def check_loss(device: DeviceId, loss_sum: float) -> None:
    """Raises UnresumableError unless a summed loss is a number."""
    if not math.isfinite(loss_sum):
        raise not_finite(device, "loss")


def step_of(job: Job, device: DeviceId, sums: EpochSums) -> int:
    """Computes after which update of the run the sums of an epoch are; refuses what cannot be.

    Raises:
        DeviceFailedError: there is no such step, or it is after other numbers of samples.
        UnresumableError: the loss is not a number.
    """
    check_loss(device, sums.loss_sum)
    lines, steps, batch = len(job.tables["train"]), job.steps_per_epoch, job.options.batch_size
    most, left = sums.steps * batch, (steps - sums.steps) * batch
    if not (1 <= sums.epoch <= job.options.epochs and sums.steps <= steps):
        raise DeviceFailedError(f"{device}: says that it trained a step that there is not")
    if not lines - left <= sums.samples <= min(lines, most):
        raise DeviceFailedError(
            f"{device}: trained on {sums.samples} of {lines} samples in {sums.steps} steps"
        )
    return (sums.epoch - 1) * steps + sums.steps


def check_state(device: DeviceId, state: bytes, before: bytes) -> None:
    """Refuses a trainer's state that nobody could go on with.

    Args:
        device: that sent it.
        state: all bytes of a safetensors file.
        before: an earlier state of the run, whose names, shapes and dtypes it must have; or empty.

    Raises:
        DeviceFailedError: damaged, without weights, or of another shape than ``before``.
        UnresumableError: a value is infinite or not a number.
    """
    try:
        tensors = read_tensors(state, "trainer state")
        earlier = read_tensors(before, "trainer state") if before else tensors
    except BadInputError as error:
        raise DeviceFailedError(f"{device}: sent a state that is none ({error})") from None
    if all(name.startswith(OPTIMIZER_PREFIX) for name in tensors):
        raise DeviceFailedError(f"{device}: sent a state without weights")
    if {name: (array.shape, array.dtype) for name, array in tensors.items()} != {
        name: (array.shape, array.dtype) for name, array in earlier.items()
    }:
        raise DeviceFailedError(f"{device}: sent the state of another adapter")
    for array in tensors.values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise not_finite(device, "adapter")


def check_token_counts(device: DeviceId, counts: Array, vocabulary: int) -> None:
    """Refuses counts of another vocabulary, or that make a sum of several too large.

    A token is not likelier where it is no candidate than anywhere.

    Raises:
        DeviceFailedError: they are that.
    """
    sound = counts.shape == (2, vocabulary) and counts.dtype == np.int64 and counts.min() >= 0
    sound = sound and bool((counts[0] <= counts[1]).all())
    if not sound or counts.sum(dtype=np.float64) > MOST_COUNTS:
        raise DeviceFailedError(f"{device}: sent counts of tokens that cannot be")


def not_finite(device: DeviceId, what: str) -> UnresumableError:
    """Makes the error of a number that is none, with what to change."""
    return UnresumableError(
        f"{device}: the {what} is not a finite number; train a new run with a lower "
        "--learning-rate, or export the model with another --quantize"
    )
