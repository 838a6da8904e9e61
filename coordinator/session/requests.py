"""Makes the requests of each phase out of a job and a plan. Pure."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from coordinator.protocol.actions import Action, Record, Send, SendProfileRequest, SendStage
from coordinator.protocol.events import Joined
from coordinator.protocol.job import Job
from coordinator.samples.samples import Catalogue, SampleTable
from coordinator.workload.work_items import int32_lengths
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .measurements import KnownDevices

Request: TypeAlias = m.Message | SendProfileRequest | SendStage
"""A message, or an action whose message the server makes."""


def answer_to(request: Request) -> type[m.Message]:
    """Names the message that answers a request."""
    return m.ANSWER_OF[type(request) if isinstance(request, m.Message) else request.request]


def actions(asked: Mapping[DeviceId, Request]) -> list[Action]:
    """Sends what is a message; what is an action already stays one."""
    return [
        Send(device=device, message=request) if isinstance(request, m.Message) else request
        for device, request in asked.items()
    ]


def welcome(job: Job, joined: Joined) -> list[Action]:
    """Lets a device take part."""
    fields: dict[str, Any] = {"device": joined.device}
    if job.local:
        fields["pid"] = joined.hello.process_id
    message = m.Welcome(heartbeat_seconds=job.heartbeat_seconds)
    send = Send(device=joined.device, message=message)
    return [send, Record(event="device_joined", fields=fields)]


def profiles(
    job: Job, joined: Mapping[DeviceId, Joined], known: KnownDevices
) -> dict[DeviceId, SendProfileRequest]:
    """Has every device measure itself, or only what may have changed since it did."""
    return {
        device: SendProfileRequest(device=device, known=known.profile_of(joined[device]))
        for device in job.devices
    }


def open_caches(
    job: Job, catalogue: Catalogue, profiles: Mapping[DeviceId, DeviceProfile]
) -> dict[DeviceId, m.OpenCache]:
    """Asks every device that may own samples which of all distinct samples it has cached."""
    streams = {stream: job.manifest.layers_of(stream) for stream in job.manifest.streams}
    request = m.OpenCache(
        backbone_digest=job.manifest.backbone_digest,
        dtype=job.cache_dtype,
        hidden_size=job.manifest.hidden_size,
        quota_bytes=job.cache_quota_bytes,
        layers={
            stream: tuple(layer for layer in job.config.layers if layer in members)
            for stream, members in streams.items()
        },
        keys=catalogue.keys,
    )
    owners = [device for device, profile in profiles.items() if profile.trainer is not None]
    return dict.fromkeys(owners, request)


def admit_peers(joined: Mapping[DeviceId, Joined]) -> dict[DeviceId, m.Peers]:
    """Tells every device who the others are."""
    peers = {
        device: m.Peer(
            device=device,
            public_key=entry.public_key,
            address=entry.hello.data_address,
            instance=entry.hello.instance,
        )
        for device, entry in joined.items()
    }
    return {
        device: m.Peers(peers=tuple(peer for name, peer in peers.items() if name != device))
        for device in peers
    }


def stages(plan: Plan) -> dict[DeviceId, SendStage]:
    """Has every device of a stage load it."""
    return {
        member.device: SendStage(device=member.device, first=stage.first, last=stage.last)
        for stage in plan.stages
        for member in stage.devices
    }


def own_samples(job: Job, plan: Plan, which: m.SampleSet) -> dict[DeviceId, m.OwnSamples]:
    """Tells every owner its lines. Trainers without any still take part in training."""
    table = job.tables[which]
    lengths = int32_lengths(table.samples)
    requests = {}
    for owner in plan.owners:
        lines = table.owned_by(plan, owner.device)
        if len(lines) or which == "train":
            requests[owner.device] = m.OwnSamples(
                which=which,
                total=len(table),
                indices=lines.astype(np.int32),
                keys=table.samples.keys[lines],
                ranks=table.ranks[lines],
                lengths={stream: each[lines] for stream, each in lengths.items()},
                second_starts=table.samples.second_starts[lines].astype(np.int32),
                targets=_targets(job, table, lines),
            )
    return requests


def _targets(job: Job, table: SampleTable, lines: Array) -> Array:
    targets = table.targets_of(lines)
    return job.config.standardized(targets) if job.config.task == "regression" else targets


def set_up_training(job: Job, plan: Plan) -> dict[DeviceId, m.SetUpTraining]:
    """Has every trainer make the same adapter."""
    trainers = tuple(owner.device for owner in plan.owners)
    manifest = job.manifest
    head = manifest.head.path if manifest.head and job.config.generative else ""
    pruned = job.config.initialization == "pruned" and not job.state
    initial = manifest.adapter_init if pruned else ""
    request = m.SetUpTraining(
        config=job.config,
        options=job.options,
        trainers=trainers,
        total_steps=job.total_steps,
        state=np.frombuffer(job.state, np.uint8),
        adapter_graph=job.adapter_file,
        head=manifest.file(head) if head else None,
        adapter_init=manifest.file(initial) if initial else None,
    )
    return dict.fromkeys(trainers, request)


def train_epoch(plan: Plan, epoch: int) -> dict[DeviceId, m.TrainEpoch]:
    """Has every trainer train one epoch."""
    return {owner.device: m.TrainEpoch(epoch=epoch) for owner in plan.owners}


def evaluate(table: SampleTable, plan: Plan) -> dict[DeviceId, m.Evaluate]:
    """Has every owner of evaluation samples compute their outputs."""
    owners = [owner.device for owner in plan.owners]
    return {device: m.Evaluate() for device in owners if len(table.owned_by(plan, device))}
