"""Says which answer each request has: read by session, device and the tests' fake alike."""

import edge_runtime.contract.messages.answers as answers
import edge_runtime.contract.messages.requests as requests
import edge_runtime.contract.messages.training as training
import edge_runtime.contract.messages.tuning as tuning

from .base import Message

ANSWER_OF: dict[type[Message], type[Message]] = {
    requests.ProfileRequest: answers.ProfileDone,
    requests.Peers: answers.PeersReady,
    requests.ProbeLink: answers.LinkMeasured,
    requests.Forget: answers.Forgotten,
    requests.OpenCache: answers.CacheStatus,
    requests.LoadStage: answers.StageReady,
    training.OwnSamples: answers.SamplesReady,
    training.SetUpTraining: answers.TrainingReady,
    requests.HoldSamples: answers.SamplesHeld,
    requests.SetUpGeneration: answers.GenerationReady,
    training.TakeState: answers.StateTaken,
    training.CountTokens: answers.TokenCounts,
    training.FormGroup: answers.GroupFormed,
    training.TrainEpoch: answers.EpochDone,
    tuning.TrainSettings: tuning.SettingsTrained,
    training.Evaluate: answers.Outputs,
    training.SendState: answers.TrainerState,
    requests.BeginPhase: answers.Usage,
}
"""Request -> the one message that answers it, unless ``Failed`` does.

Work that flows through several devices has no entry: ``RunBatch`` ends in ``BatchServed`` of
every stage and ``Stored`` of every owner, ``MoveSamples`` in ``SamplesSent`` of the source
and ``Stored`` of the new owner.
"""
