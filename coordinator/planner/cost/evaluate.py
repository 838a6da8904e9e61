"""Predicts what a plan costs: the one judge that planner, commands and tests share. Pure.

The terms are in :mod:`.memory`, :mod:`.fill` and :mod:`.epochs`. Not counted, since nothing
measures it: writing and reading the cache on disks slower than the processor.
"""

from collections.abc import Mapping

from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.plan import DevicePrediction, Plan, Prediction, Stage

from .epoch import all_reduce_seconds, epoch_seconds, savings_seconds, shards_epoch_seconds
from .fill import (
    OwnedFraction,
    fill_load,
    fill_seconds,
    micro_batches_in_flight,
    received_bytes,
    sent_bytes,
    stage_latency_seconds,
)
from .memory import shard_storage_bytes, stage_memory_bytes, trainer_memory_bytes


def evaluate(problem: Problem, plan: Plan) -> Prediction:
    """Predicts times, memory and storage of a plan, whether or not it fits."""
    shards = {owner.device: len(owner.shards) for owner in plan.owners}
    parts = _epoch_parts(problem, plan)
    devices = {
        device: _predict(problem, plan, device, parts.get(device, {})) for device in plan.devices
    }
    latencies = sum(_stage_latency(problem, plan, stage) for stage in plan.stages)
    bottleneck = max(device.fill_seconds for device in devices.values())
    fill = float(fill_seconds(problem, bottleneck, latencies, plan.micro_batch_size))
    epoch = epoch_seconds(problem, shards) + _uncached(problem, shards) * fill
    owners = [problem.profile(owner.device) for owner in plan.owners]
    return Prediction(
        in_flight=float(
            micro_batches_in_flight(problem, bottleneck, latencies, owners, plan.micro_batch_size)
        ),
        total_seconds=fill + problem.epochs * epoch,
        fill_seconds=fill,
        epoch_seconds=epoch,
        devices=devices,
    )


def _uncached(problem: Problem, shards: Mapping[DeviceId, int]) -> float:
    """Part of the samples that disks have no room for: it is computed again in every epoch."""
    size = shard_storage_bytes(problem)
    lacking = sum(
        max(0, count * size - problem.profile(device).storage_bytes)
        for device, count in shards.items()
    )
    return lacking / (size * problem.batch_size) if size else 0.0


def _predict(
    problem: Problem, plan: Plan, device: DeviceId, epoch_parts: Mapping[str, float]
) -> DevicePrediction:
    profile, stage = problem.profile(device), plan.stage_of(device)
    owned, size = len(plan.shards_of(device)), plan.micro_batch_size
    owning = OwnedFraction(part=plan.share_of(device), others=len(plan.owners) - (owned > 0))
    first, last = (stage.first, stage.last) if stage else (0, 0)
    share = sum(m.share for m in stage.devices if m.device == device) if stage else 0.0
    load = fill_load(problem, profile, first, last, owning, size)
    memory = profile.base_memory_bytes
    memory += int(stage_memory_bytes(problem, first, last, size)) if stage else 0
    memory += trainer_memory_bytes(profile) if owned else 0
    parts = {
        "compute": load.compute,
        "handling": load.handling,
        "sending": load.sending,
        "receiving": load.receiving,
    }
    return DevicePrediction(
        memory_bytes=memory,
        storage_bytes=owned * shard_storage_bytes(problem),
        fill_seconds=float(load.seconds(share)),
        epoch_seconds=epoch_parts.get("compute", 0.0),
        sent_bytes=float(sent_bytes(problem, first, last, owning).at(share)),
        received_bytes=float(received_bytes(problem, first, last, owning).at(share)),
        fill_parts={name: float(cost.at(share)) for name, cost in parts.items()},
        epoch_parts=epoch_parts,
    )


def _epoch_parts(problem: Problem, plan: Plan) -> dict[DeviceId, dict[str, float]]:
    """Of each owner: its own part of an epoch, and what it does together with the others."""
    trainers = [problem.profile(owner.device) for owner in plan.owners]
    steps = steps_per_epoch(problem.num_samples, problem.batch_size)
    own = {
        owner.device: shards_epoch_seconds(problem, trainer, len(owner.shards))
        for owner, trainer in zip(plan.owners, trainers, strict=True)
    }
    exchange = steps * all_reduce_seconds(problem, trainers)
    saving = savings_seconds(problem, trainers, max(own.values()) + exchange)
    return {
        device: {"compute": seconds, "exchange": exchange, "saving": saving}
        for device, seconds in own.items()
    }


def _stage_latency(problem: Problem, plan: Plan, stage: Stage) -> float:
    profiles = [problem.profile(member.device) for member in stage.devices]
    return max(
        float(stage_latency_seconds(problem, each, stage.first, stage.last, plan.micro_batch_size))
        for each in profiles
    )
