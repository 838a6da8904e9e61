"""Every message that crosses a socket, as frozen dataclasses.

Three flows:

- *to a device*: what the coordinator asks for (``ProfileRequest``, ``LoadStage``, ``RunBatch``,
  ``TrainEpoch``, ...). Each request is answered by exactly one message or by ``Failed``.
- *to the coordinator*: those answers, and telemetry.
- *device to device*: hidden states between stages (``Activations``), states to their owners
  (``States``), gradients (``GradientPart``, ``ReducedPart``), trains that measure the link
  (``Probe``, ``ProbeEcho``), and ``Credit`` back.

The sender is never a field: a DeviceId comes from the transport's authentication only.

Shapes: N samples, L layers, R bytes of an encoded row, P adapter parameters, C outputs.
"""

from __future__ import annotations

from .answers import (
    BatchServed,
    CacheStatus,
    EpochDone,
    Failed,
    FileRequest,
    GenerationReady,
    Heartbeat,
    Hello,
    LinkMeasured,
    NextTokens,
    Outputs,
    PeersReady,
    ProfileDone,
    Progress,
    SamplesReady,
    StageReady,
    Stored,
    TrainerState,
    TrainingReady,
    Usage,
)
from .base import Array, CacheDtype, Lengths, Message, Phase, SampleSet, StageFiles
from .flow import ANSWER_OF
from .mesh import Activations, Credit, GradientPart, Probe, ProbeEcho, ReducedPart, States
from .requests import (
    BeginPhase,
    Destination,
    Evaluate,
    FileChunk,
    LoadStage,
    MicroBatch,
    MoveSamples,
    OpenCache,
    OwnSamples,
    Peer,
    Peers,
    ProbeLink,
    ProfileRequest,
    Release,
    RunBatch,
    SendState,
    SetUpGeneration,
    SetUpTraining,
    Shutdown,
    TrainEpoch,
    Welcome,
)

__all__ = [
    "ANSWER_OF",
    "MESSAGE_TYPES",
    "Activations",
    "Array",
    "BatchServed",
    "BeginPhase",
    "CacheDtype",
    "CacheStatus",
    "Credit",
    "Destination",
    "EpochDone",
    "Evaluate",
    "Failed",
    "FileChunk",
    "FileRequest",
    "GenerationReady",
    "GradientPart",
    "Heartbeat",
    "Hello",
    "Lengths",
    "LinkMeasured",
    "LoadStage",
    "Message",
    "MicroBatch",
    "MoveSamples",
    "NextTokens",
    "OpenCache",
    "Outputs",
    "OwnSamples",
    "Peer",
    "Peers",
    "PeersReady",
    "Phase",
    "Probe",
    "ProbeEcho",
    "ProbeLink",
    "ProfileDone",
    "ProfileRequest",
    "Progress",
    "ReducedPart",
    "Release",
    "RunBatch",
    "SampleSet",
    "SamplesReady",
    "SendState",
    "SetUpGeneration",
    "SetUpTraining",
    "Shutdown",
    "StageFiles",
    "StageReady",
    "States",
    "Stored",
    "TrainEpoch",
    "TrainerState",
    "TrainingReady",
    "Usage",
    "Welcome",
]

MESSAGE_TYPES: dict[str, type[Message]] = {
    message.__name__: message
    for message in (
        *(Welcome, ProfileRequest, FileChunk, Peers, OpenCache, LoadStage, RunBatch, MoveSamples),
        *(OwnSamples, SetUpTraining, TrainEpoch, Evaluate, SendState, BeginPhase, Shutdown),
        *(Hello, Heartbeat, FileRequest, ProfileDone, PeersReady, CacheStatus, StageReady),
        *(BatchServed, Stored, SamplesReady, TrainingReady, Progress, EpochDone, Outputs),
        *(SetUpGeneration, Release, GenerationReady, NextTokens),
        *(TrainerState, Usage, Failed, ProbeLink, LinkMeasured, Probe, ProbeEcho),
        *(Activations, States, GradientPart, ReducedPart, Credit),
    )
}
