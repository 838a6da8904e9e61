"""A described device, and its profile: what it is said to have, times scaled from a reference.

Pure. ``profiles_file.py`` reads the descriptions.
"""

import dataclasses
from collections.abc import Mapping

from devices.catalogue import Role
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import (
    BlockTiming,
    DeviceProfile,
    HandlingProfile,
    LinkProfile,
    TrainerProfile,
)

AMPLE_STORAGE_BYTES = 1 << 60
"""What a device has for its cache where nobody says."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTraining:
    """Training times that were measured on the device; see ``TrainerProfile``."""

    seconds_per_sample: float
    seconds_per_step: float = 0.0
    memory_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry:
    """One ``[[device]]`` as it is written.

    Attributes:
        name: id of the device, or the beginning of their ids where ``count`` is given.
        like: a name in the catalogue that the fields which are left out are taken from.
        count: so many alike ones.
        memory_bytes: what the device process may have resident.
        storage_bytes: free space for its cache; without it, no limit.
        cores: that computing can use.
        relative_speed: of one core, against one core of the machine that plans.
        link_bits_per_second: of its connection, each way.
        latency_seconds: of its connection, one way.
        roles: what it may be given to do.
        battery: kept for people.
        description: kept for people.
        sources: kept for people.
        base_memory_bytes: of the process before any stage; by default the reference's.
        blocks: measured seconds per token, by the bundle's classes of blocks.
        trainer: measured training times.
    """

    name: str
    like: str | None = None
    count: int | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None
    cores: float | None = None
    relative_speed: float | None = None
    link_bits_per_second: float | None = None
    latency_seconds: float | None = None
    roles: tuple[Role, ...] | None = None
    battery: bool | None = None
    description: str | None = None
    sources: Mapping[str, str] | None = None
    base_memory_bytes: int | None = None
    blocks: Mapping[str, float] | None = None
    trainer: MeasuredTraining | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GivenDevice:
    """One device of the file, with everything that the file and the catalogue say of it."""

    device: DeviceId
    entry: DeviceEntry
    memory_bytes: int
    cores: float
    relative_speed: float
    roles: tuple[Role, ...]
    link: LinkProfile


def scaled_profile(device: GivenDevice, reference: DeviceProfile) -> DeviceProfile:
    """The device's profile by that of a reference.

    Args:
        device: what is said of it.
        reference: measured on cores of relative speed 1, as many as it has threads.
    """
    entry = device.entry
    # The reference's times are those of its threads together; cores are taken to add up.
    slower = min(reference.threads, reference.cores) / (device.cores * device.relative_speed)
    trains = "trainer" in device.roles
    return DeviceProfile(
        device=device.device,
        profile=entry.like or "",
        roles=device.roles,
        memory_bytes=device.memory_bytes,
        base_memory_bytes=(
            reference.base_memory_bytes
            if entry.base_memory_bytes is None
            else entry.base_memory_bytes
        ),
        storage_bytes=(AMPLE_STORAGE_BYTES if entry.storage_bytes is None else entry.storage_bytes),
        cores=device.cores,
        threads=max(1, int(device.cores)),
        provider=reference.provider,
        kernel_class=reference.kernel_class,
        blocks=_blocks(entry, reference, slower) if "backbone" in device.roles else {},
        trainer=_trainer(entry.trainer, reference.trainer, slower, device.relative_speed)
        if trains
        else None,
        handling=_handling(reference.handling, slower, device.relative_speed),
        link=device.link,
        measured=False,
    )


def _blocks(
    entry: DeviceEntry, reference: DeviceProfile, slower: float
) -> dict[str, tuple[BlockTiming, ...]]:
    if entry.blocks is None:
        return {
            block_class: tuple(
                dataclasses.replace(
                    each,
                    seconds_per_token=each.seconds_per_token * slower,
                    seconds_per_run=each.seconds_per_run * slower,
                )
                for each in timings
            )
            for block_class, timings in reference.blocks.items()
        }
    shape = next(iter(reference.blocks.values()))[0]
    return {
        block_class: (
            BlockTiming(
                batch_size=shape.batch_size,
                sequence_length=shape.sequence_length,
                seconds_per_token=seconds,
            ),
        )
        for block_class, seconds in entry.blocks.items()
    }


def _trainer(
    given: MeasuredTraining | None,
    reference: TrainerProfile | None,
    slower: float,
    relative_speed: float,
) -> TrainerProfile:
    if given is None:
        assert reference is not None, "checked by ProfilesFile.profiles"
        return dataclasses.replace(
            reference,
            seconds_per_sample=reference.seconds_per_sample * slower,
            seconds_per_new_sample=reference.seconds_per_new_sample * slower,
            seconds_per_step=reference.seconds_per_step * slower,
            seconds_per_exchanged_value=reference.seconds_per_exchanged_value / relative_speed,
        )
    memory = reference.memory_bytes if reference else 0
    # Of what is found once, nobody writes the time: it is in proportion to what is measured.
    new = reference.seconds_per_new_sample / reference.seconds_per_sample if reference else 0.0
    exchanged = reference.seconds_per_exchanged_value if reference else 0.0
    return TrainerProfile(
        seconds_per_sample=given.seconds_per_sample,
        seconds_per_new_sample=given.seconds_per_sample * new,
        seconds_per_step=given.seconds_per_step,
        memory_bytes=memory if given.memory_bytes is None else given.memory_bytes,
        parameters=reference.parameters if reference else 0,
        seconds_per_exchanged_value=exchanged / relative_speed,
    )


def _handling(reference: HandlingProfile, slower: float, relative_speed: float) -> HandlingProfile:
    """One core's seconds by the core's speed, wall seconds as those of blocks."""
    return HandlingProfile(
        seconds_per_message=reference.seconds_per_message / relative_speed,
        seconds_per_byte=reference.seconds_per_byte / relative_speed,
        seconds_per_encoded_byte=reference.seconds_per_encoded_byte / relative_speed,
        seconds_per_stored_byte=reference.seconds_per_stored_byte / relative_speed,
        seconds_per_stage_run=reference.seconds_per_stage_run * slower,
        seconds_per_stage_token=reference.seconds_per_stage_token * slower,
    )
