"""A term ends the work of earlier ones, and changes nothing that is held or learnt."""

from __future__ import annotations

from edge_runtime.contract import messages as m
from tests.conformance.world import EVAL, FENCE, TRAIN, A, B, World


def train_until_it_waits(world: World) -> None:
    """A gives its part of the first step and waits for B's."""
    world.send(A, m.TrainEpoch(epoch=1))
    world.answer(A, m.BeginPhase(phase="train"))


def test_answers_bear_the_number_of_their_request_however_late(world: World) -> None:
    world.trainable()
    epoch = world.send(A, m.TrainEpoch(epoch=1))  # lasts until B takes part
    later = world.send(A, FENCE)
    world.answer(A, m.BeginPhase(phase="train"))
    world.send(B, m.TrainEpoch(epoch=1))
    tags = []
    for kind in (m.EpochDone, m.GenerationReady):
        assert isinstance(world.receive(A), kind)
        tags.append(world.tag)
    assert tags == [epoch, later]


def test_a_refusal_bears_the_number_of_its_request(world: World) -> None:
    world.start(A)
    numbers = [world.send(A, request) for request in (m.SendState(), m.PeersReady())]
    refused = {}
    for _ in numbers:
        message = world.receive(A)
        assert isinstance(message, m.Failed)
        refused[world.tag] = message.reason
    assert "not set up" in refused[numbers[0]]
    assert "PeersReady" in refused[numbers[1]]


def test_messages_of_another_session_are_dropped(world: World) -> None:
    world.started(A, B)
    for request in (m.BeginPhase(phase="fill"), m.BeginTerm(), m.Shutdown(), FENCE):
        world.send(A, request, session="another", term=7)
    world.send_as_peer(B, A, world.states([0]), session="another")
    assert world.rest(A) == []
    status = world.answer(A, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    assert not status.held.any()


def test_requests_of_an_old_term_are_dropped(world: World) -> None:
    world.started(A)
    world.begin_term(A)
    for request in (m.BeginPhase(phase="fill"), m.SendState(), FENCE):
        world.send(A, request, term=world.term - 1)
    assert world.rest(A) == []


def test_work_of_no_term_is_done_in_any(world: World) -> None:
    world.trainable()
    train_until_it_waits(world)
    tag = world.send(A, world.profile_request(), term=0)
    world.begin_term(A)
    assert isinstance(world.receive(A), m.ProfileDone)
    assert world.tag == tag


def test_queued_work_of_an_old_term_is_skipped_in_silence(world: World) -> None:
    world.trainable()
    train_until_it_waits(world)
    for request in (m.SendState(), m.Evaluate(), world.run_batch(4, EVAL, (A,), {A: EVAL})):
        world.send(A, request)
    world.begin_term(A)
    assert world.rest(A) == []


def test_the_first_message_of_a_higher_term_begins_it(world: World) -> None:
    world.trainable()
    train_until_it_waits(world)
    world.term += 1
    assert world.rest(A) == []


def test_states_and_activations_of_an_old_term_are_dropped(world: World) -> None:
    world.started(A, B)
    world.begin_term(A, B)
    world.send_as_peer(B, A, world.states([0]), term=world.term - 1)
    world.send_as_peer(B, A, world.activations(B, A), term=world.term - 1)
    world.send_as_peer(B, A, world.gradient(), term=world.term - 1)
    assert world.rest(A) == []
    status = world.answer(A, world.open_cache())
    assert isinstance(status, m.CacheStatus)
    assert not status.held.any()


def test_what_peers_send_of_a_higher_term_waits_for_it(world: World) -> None:
    world.started(A, B)
    for ahead, line in ((2, 2), (1, 0), (1, 1)):
        states = world.states([line], number=10 * ahead + line)
        world.send_as_peer(B, A, states, term=world.term + ahead)
    assert world.rest(A) == []
    for numbers in ([10, 11], [22]):
        world.begin_term(A)
        for number in numbers:
            stored = world.receive(A)
            assert isinstance(stored, m.Stored)
            assert (stored.number, world.tag.term) == (number, world.term)
    assert world.rest(A) == []


def test_stage_cache_samples_and_adapter_outlive_a_term(world: World) -> None:
    world.trainable()
    before = world.state(A)
    world.answer(A, world.load_stage(0, len(world.layers)))
    world.begin_term(A, B)
    world.send(A, world.run_batch(2, EVAL, (A,), {A: EVAL}))
    world.stored(2, {A: len(EVAL)})
    found = world.answer(A, m.Evaluate())
    assert isinstance(found, m.Outputs)
    assert world.state(A).data.tobytes() == before.data.tobytes()


def test_a_cache_that_is_opened_again_keeps_its_samples(world: World) -> None:
    world.alone()
    world.begin_term(A)
    status = world.answer(A, world.open_cache([*EVAL, *TRAIN]))
    assert isinstance(status, m.CacheStatus)
    assert status.held[: len(EVAL)].all()
    world.answer(A, world.set_up_training())
    world.group(A)
    done = world.answer(A, m.TrainEpoch(epoch=1))
    assert isinstance(done, m.EpochDone)


def test_keys_of_a_cache_that_is_opened_again_are_expected_too(world: World) -> None:
    world.start(A)
    for lines in ([0], [1]):
        world.answer(A, world.open_cache(lines))
    world.send_as_peer(B, A, world.states([0, 1]))
    assert isinstance(world.receive(A), m.Stored)


def test_states_that_are_held_already_are_stored_again(world: World) -> None:
    world.started(A, B)
    for number in (1, 2):
        world.send_as_peer(B, A, world.states([0], number=number))
        stored = world.receive(A)
        assert isinstance(stored, m.Stored)
        assert stored.number == number
