"""Sequences at a device's two roles, before and after generation was set up."""

from typing import cast

import numpy as np
import pytest

from edge_runtime.backbone.loaded_stage import LoadedStage
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.backbone.sample_parts import BackboneSize
from edge_runtime.backbone.stage import Stage
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import NextTokens, SetUpGeneration
from edge_runtime.inference.weight_store import FileStates
from edge_runtime.serving.generator import LanguageModel
from edge_runtime.serving.loaded_adapter import LoadedAdapter
from edge_runtime.serving.onnx_adapter import AdapterSession
from edge_runtime.training.role import TrainerRole
from tests.coordinator.planner.problems import manifest
from tests.edge_runtime.backbone.test_incremental_stage import CausalBlocks
from tests.edge_runtime.backbone.test_stage import stage_files
from tests.edge_runtime.contract.test_generation import batch
from tests.edge_runtime.serving.test_generator import SumOfAll, config, states

REQUEST = SetUpGeneration(
    options=GenerationOptions(), max_sequences=4, max_rows={"decoder": 9, "encoder": 9}
)


class Sent(list):
    """An outbox that notes what is sent."""

    def to_coordinator(self, message):
        self.append(message)

    def to_peer(self, peer, message):
        self.append((peer, message))

    def wait_for_room(self):
        pass


def test_a_stage_takes_no_sequences_before_generation_is_set_up():
    role = BackboneRole(me=DeviceId("a"), threads=1, outbox=Sent(), keep=lambda states: None)
    rows = {"decoder_input_ids": np.array([1, 2], np.int32)}
    with pytest.raises(RemoteError, match="before its stage was loaded"):
        role.run(batch(), 0, rows)
    model = manifest([1] * 4, encoder_blocks=2)
    role._loaded = LoadedStage(
        identity="",
        graphs=(),
        stages=(Stage(CausalBlocks(model, 0, 4), stage_files(model, 0, 4), range(4)),),
        size=BackboneSize(hidden_size=8, num_heads=1),
        dtype="fp32",
        files=FileStates({}),
    )
    with pytest.raises(RemoteError, match="before generation was set up"):
        role.run(batch(), 0, rows)
    role.set_up_generation(REQUEST)
    with pytest.raises(RemoteError, match="should be here, but 0 are"):
        role.run(batch(), 0, rows)


def test_an_owner_takes_no_states_before_generation_is_set_up(tmp_path):
    sent = Sent()
    role = TrainerRole(me=DeviceId("a"), home=tmp_path, outbox=sent)
    first = states(1, [0, 2], [0], [0], [3], token=2)
    with pytest.raises(RemoteError, match="before generation was set up"):
        role.keep(first)
    role.set_up_generation(REQUEST)  # without an adapter there is nothing to answer with
    with pytest.raises(RemoteError, match="before generation was set up"):
        role.keep(first)

    role._loaded = LoadedAdapter(
        identity="",
        session=cast(AdapterSession, None),
        language=LanguageModel(config(), SumOfAll()),
        files=FileStates({}),
    )
    role.set_up_generation(REQUEST)
    role.keep(first)
    (chosen,) = sent
    assert isinstance(chosen, NextTokens)
    assert chosen.tokens.tolist() == [2]
    role.release(np.array([0], np.int32))
    role.keep(states(2, [0, 2], [0], [0], [3], token=1))
    assert sent[1].tokens.tolist() == [1]


def test_an_owner_whose_adapter_reads_tokens_takes_no_states_without_them(tmp_path):
    sent = Sent()
    role = TrainerRole(me=DeviceId("a"), home=tmp_path, outbox=sent)
    role._loaded = LoadedAdapter(
        identity="",
        session=cast(AdapterSession, None),
        language=LanguageModel(config(kind="pointer"), adapter := SumOfAll()),
        files=FileStates({}),
    )
    role.set_up_generation(REQUEST)
    with pytest.raises(RemoteError, match="step 1 came without its tokens"):
        role.keep(states(1, [0, 2], [0], [0], [3]))
    role.keep(states(1, [0, 2], [0], [0], [3], tokens=[3, 1, 2]))
    assert [batch.tokens.tolist() for batch in adapter.batches] == [[[3, 1, 2]]]
