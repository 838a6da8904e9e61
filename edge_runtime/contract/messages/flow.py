"""Says which answer each request has: read by session, device and the tests' fake alike."""

from __future__ import annotations

from .answers import (
    CacheStatus,
    EpochDone,
    GenerationReady,
    LinkMeasured,
    Outputs,
    PeersReady,
    ProfileDone,
    SamplesReady,
    StageReady,
    TrainerState,
    TrainingReady,
    Usage,
)
from .base import Message
from .requests import (
    BeginPhase,
    Evaluate,
    LoadStage,
    OpenCache,
    OwnSamples,
    Peers,
    ProbeLink,
    ProfileRequest,
    SendState,
    SetUpGeneration,
    SetUpTraining,
    TrainEpoch,
)

ANSWER_OF: dict[type[Message], type[Message]] = {
    ProfileRequest: ProfileDone,
    Peers: PeersReady,
    ProbeLink: LinkMeasured,
    OpenCache: CacheStatus,
    LoadStage: StageReady,
    OwnSamples: SamplesReady,
    SetUpTraining: TrainingReady,
    SetUpGeneration: GenerationReady,
    TrainEpoch: EpochDone,
    Evaluate: Outputs,
    SendState: TrainerState,
    BeginPhase: Usage,
}
"""Request -> the one message that answers it, unless ``Failed`` does.

Work that flows through several devices has no entry: ``RunBatch`` ends in ``BatchServed`` of
every stage and ``Stored`` of every owner, ``MoveSamples`` in ``Stored`` of the new owner.
"""
