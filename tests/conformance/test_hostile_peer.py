"""Whatever a peer sends, a device goes on and answers the coordinator."""

from __future__ import annotations

import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode
from edge_runtime.contract.errors import DecodeError
from tests.conformance.world import EVAL, TRAIN, A, B, World
from tests.edge_runtime.contract.examples import EXAMPLES, mutations

FROM_PEERS = tuple(message for message in EXAMPLES if type(message).__module__ == m.mesh.__name__)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_message_of_a_peer_breaks_a_device(world: World, seed: int) -> None:
    world.filled()
    sent = 0
    for frames in mutations(seed, (*FROM_PEERS, world.states([0]), world.activations(A, B))):
        try:
            message = decode(frames)
        except DecodeError:
            continue
        world.send_as_peer(B, A, message)
        sent += 1
        if sent == 300:
            break
    world.rest(A)
    status = world.answer(A, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    assert status.held[: len(TRAIN) + len(EVAL)].any()
