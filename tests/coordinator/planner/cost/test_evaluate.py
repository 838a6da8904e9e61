import dataclasses

import numpy as np
import pytest

from coordinator.planner.cost import epoch as epochs
from coordinator.planner.cost import evaluate as costs
from coordinator.planner.cost import fill, memory, moving
from coordinator.planner.problem.problem import Tokens
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.profile import HandlingProfile, LinkProfile
from tests.coordinator.planner.problems import MB, manifest, problem, profile

A, B = DeviceId("a"), DeviceId("b")


def plan(*stages: tuple[int, int, dict[DeviceId, float]], owners: dict[DeviceId, int]) -> Plan:
    start, owned = 0, []
    for device, count in owners.items():
        owned.append(Owner(device=device, shards=tuple(range(start, start + count))))
        start += count
    return Plan(
        stages=tuple(
            Stage(
                first=first,
                last=last,
                devices=tuple(StageDevice(device=d, share=s) for d, s in members.items()),
            )
            for first, last, members in stages
        ),
        owners=tuple(owned),
        num_shards=16,
        micro_batch_size=16,
    )


ALONE = plan((0, 7, {A: 1.0}), owners={A: 16})
PIPELINE = plan((0, 3, {A: 1.0}), (3, 7, {B: 1.0}), owners={A: 16})


def test_a_shared_weight_file_counts_once_a_stage() -> None:
    assert problem().weight_bytes[0, 1] == 12 * MB
    assert problem().weight_bytes[1, 4] == 7 * MB


def test_memory_of_a_stage_grows_with_blocks_and_micro_batch() -> None:
    case = problem(profile("a"))
    sizes = [memory.stage_memory_bytes(case, 2, last, 8) for last in range(3, 8)]
    assert sizes == sorted(sizes)
    assert memory.stage_memory_bytes(case, 2, 3, 16) > sizes[0]


def test_samples_that_are_longer_than_a_micro_batch_of_mean_ones_wait_as_long_as_they_are() -> None:
    case, lengths = problem(profile("a")), Tokens(mean=13.0, max=130, usual=104)
    case = dataclasses.replace(case, tokens=dict.fromkeys(case.tokens, lengths))
    mean = memory.in_flight_bytes(case, 2, 4, 10) / (4 * 10)
    assert memory.in_flight_bytes(case, 2, 4, 1) == pytest.approx((3 * 8 + 10) * mean)
    assert memory.in_flight_bytes(case, 2, 4, 9) == pytest.approx((3 * 9 + 10) * mean)


def test_one_device_takes_its_forward_time_for_every_sample() -> None:
    case = problem(profile("a", layer=1e-5), samples=1600)
    predicted = costs.evaluate(case, ALONE)
    compute = 1600 * 13 * 6.1 * 1e-5
    assert predicted.fill_seconds == pytest.approx(compute)
    assert predicted.devices[A].fill_seconds == pytest.approx(predicted.fill_seconds)


def test_one_trainer_exchanges_nothing() -> None:
    case = problem(profile("a", train=2e-3), samples=1600)
    predicted = costs.evaluate(case, ALONE)
    assert predicted.epoch_seconds == pytest.approx(3.2)
    assert predicted.total_seconds == pytest.approx(predicted.fill_seconds + 5 * 3.2)


def test_a_pipeline_runs_at_the_pace_of_its_slowest_stage() -> None:
    case = problem(profile("a"), profile("b", layer=3e-5), samples=1600)
    predicted = costs.evaluate(case, PIPELINE)
    slowest = 16 * 13 * 4 * 3e-5
    other = 16 * 13 * 2.1 * 1e-5
    assert predicted.fill_seconds == pytest.approx(100 * slowest + other)


def test_replicas_share_the_work_of_a_stage() -> None:
    case = problem(profile("a"), profile("b"), samples=1600)
    shared = plan((0, 7, {A: 0.5, B: 0.5}), owners={A: 16})
    halved = costs.evaluate(case, shared).devices[B].fill_seconds
    assert halved == pytest.approx(costs.evaluate(case, ALONE).devices[A].fill_seconds / 2)


def test_a_slow_link_sets_the_pace() -> None:
    link = LinkProfile(up_bits_per_second=1e6, down_bits_per_second=1e9, latency_seconds=0.5)
    case = problem(profile("a"), profile("b", link=link), samples=1600)
    predicted = costs.evaluate(case, PIPELINE)
    # b sends its four layers' states to their owner a.
    sent_bits = 8 * 1600 * 13 * 4 * 768
    assert predicted.devices[B].fill_seconds == pytest.approx(sent_bits / 1e6)
    assert predicted.fill_seconds > sent_bits / 1e6 * 0.99 + 0.5


def bytes_of(case, stages, owned):
    """What each device of a pipeline sends and receives when they own these parts."""
    owning = [fill.OwnedFraction(part=part, others=1) for part in owned]
    pairs = list(zip(stages, owning, strict=True))
    sent = [fill.sent_bytes(case, *stage, each).at(1.0) for stage, each in pairs]
    got = [fill.received_bytes(case, *stage, each).at(1.0) for stage, each in pairs]
    return sum(sent), sum(got)


def test_every_byte_that_is_sent_is_received() -> None:
    case = problem(profile("a"), profile("b"))
    for owned in ((1.0, 0.0), (0.25, 0.75), (0.0, 1.0)):
        sent, got = bytes_of(case, ((0, 3), (3, 7)), owned)
        assert sent == pytest.approx(got)


def test_handling_takes_the_processor_away_from_computing() -> None:
    handling = HandlingProfile(seconds_per_stored_byte=1e-8, seconds_per_encoded_byte=2e-8)
    busy = dataclasses.replace(profile("a"), handling=handling)
    stored = 6000 * 13 * 7 * 768
    free = costs.evaluate(problem(profile("a")), ALONE).devices[A].fill_seconds
    alone = costs.evaluate(problem(busy), ALONE).devices[A].fill_seconds
    assert alone == pytest.approx(free + stored * 3e-8)
    # With a second core the I/O thread stores while the worker goes on.
    two = costs.evaluate(problem(dataclasses.replace(busy, cores=2.0)), ALONE)
    assert two.devices[A].fill_seconds == pytest.approx(free + stored * 2e-8)
    # Half a core takes twice as long for it.
    half = costs.evaluate(problem(dataclasses.replace(busy, cores=0.5)), ALONE)
    assert half.devices[A].fill_seconds == pytest.approx(free + 2 * stored * 3e-8)


def test_messages_cost_the_processor_too() -> None:
    handling = HandlingProfile(seconds_per_message=1e-3)
    case = problem(dataclasses.replace(profile("a"), handling=handling), samples=1600)
    free = costs.evaluate(problem(profile("a"), samples=1600), ALONE).fill_seconds
    messages = 100 * (fill.SERVED_MESSAGES + fill.STORED_MESSAGES)
    assert costs.evaluate(case, ALONE).fill_seconds == pytest.approx(
        free + messages * 1e-3, rel=0.01
    )


def test_exchange_costs_more_with_a_slower_link() -> None:
    link = LinkProfile(up_bits_per_second=1e8, down_bits_per_second=1e7, latency_seconds=0.01)
    case = problem(profile("a"), profile("b", link=link))
    # Two trainers: each sends and receives the whole gradient, in half precision, once a step.
    expected = 8 * 200_000 / 1e7 + 2 * 0.01
    assert epochs.all_reduce_seconds(case, case.profiles) == pytest.approx(expected)


def test_exchange_costs_the_processor_messages_bytes_and_sums() -> None:
    slow = dataclasses.replace(
        profile("b"), handling=HandlingProfile(seconds_per_message=1e-3, seconds_per_byte=1e-8)
    )
    trainer = dataclasses.replace(slow.trainer, seconds_per_exchanged_value=2e-8)
    case = problem(profile("a"), dataclasses.replace(slow, trainer=trainer))
    expected = 4 * 1e-3 + 2 * 200_000 * 1e-8 + 100_000 * 2e-8
    assert epochs.all_reduce_seconds(case, case.profiles) == pytest.approx(expected)
    assert epochs.all_reduce_seconds(case, case.profiles[:1]) == 0


def test_answers_are_not_exchanged() -> None:
    link = LinkProfile(up_bits_per_second=1e6, down_bits_per_second=1e6, latency_seconds=1.0)
    case = problem(profile("a", link=link), profile("b"), adapter_parameters=0)
    assert epochs.all_reduce_seconds(case, case.profiles) == 0


def test_an_epoch_waits_while_the_trainer_with_the_fastest_link_sends_its_state() -> None:
    slow, fast = (
        LinkProfile(up_bits_per_second=rate, down_bits_per_second=rate, latency_seconds=0.01)
        for rate in (1e6, 1e7)
    )
    case = problem(profile("a", link=slow), profile("b", link=fast), trains=True)
    sending = 2 * 0.01 + 8 * 4 * 4 * 100_000 / 1e7
    assert epochs.savings_seconds(case, case.profiles, 1.0) == pytest.approx(sending)
    assert epochs.savings_seconds(case, case.profiles, 50.0) == pytest.approx(3 * sending)
    before = epochs.epoch_seconds(dataclasses.replace(case, trains=False), {A: 8, B: 8})
    after = epochs.epoch_seconds(case, {A: 8, B: 8})
    parts = -(-before // epochs.PART_SECONDS)
    assert after == pytest.approx(before + parts * sending)
    plans = plan((0, 7, {A: 1.0}), owners={A: 8, B: 8})
    assert costs.evaluate(case, plans).devices[B].epoch_parts["saving"] == pytest.approx(
        parts * sending
    )


def test_moves_between_owners_take_their_links_side_by_side() -> None:
    link = LinkProfile(up_bits_per_second=1e7, down_bits_per_second=2e7)
    case = problem(*(profile(name, link=link) for name in "abc"))
    size = memory.cache_bytes_per_sample(case)
    plans = plan((0, 7, {A: 1.0}), owners={A: 8, B: 8})
    to_two = {(A, B): 100, (A, DeviceId("c")): 100}
    seconds = moving.moving_seconds(case, plans, to_two, 0)
    assert seconds == pytest.approx(8 * 200 * size / 1e7)
    from_two = {(A, B): 100, (DeviceId("c"), B): 100}
    assert moving.moving_seconds(case, plans, from_two, 0) == pytest.approx(8 * 200 * size / 2e7)
    assert moving.moving_seconds(case, plans, {}, 0) == 0


def test_what_nobody_holds_is_computed_again() -> None:
    case = problem(profile("a"), profile("b"))
    whole = costs.evaluate(case, ALONE).fill_seconds
    assert moving.moving_seconds(case, ALONE, {}, 600) == pytest.approx(0.1 * whole)


def test_memory_counts_runtime_stage_and_training() -> None:
    case = problem(profile("a"), profile("b"))
    predicted = costs.evaluate(case, PIPELINE).devices
    stage = memory.stage_memory_bytes(case, 0, 3, 16)
    assert predicted[A].memory_bytes == 50 * MB + stage + 100 * MB + memory.ARRIVING_BYTES
    assert predicted[B].memory_bytes == 50 * MB + memory.stage_memory_bytes(case, 3, 7, 16)


def test_storage_is_the_owners_share_of_the_cache() -> None:
    case = problem(profile("a"), profile("b"))
    predicted = costs.evaluate(case, plan((0, 7, {A: 1.0}), owners={A: 4, B: 12})).devices
    assert predicted[B].storage_bytes == 3 * predicted[A].storage_bytes
    assert predicted[A].storage_bytes == pytest.approx(6000 / 4 * 13 * 7 * 768, rel=1e-6)


def test_what_a_loss_keeps_of_each_sample_is_stored_and_found_once() -> None:
    with_loss = profile("a", train=2e-3)
    assert with_loss.trainer is not None
    trainer = dataclasses.replace(with_loss.trainer, seconds_per_new_sample=1e-2)
    with_loss = dataclasses.replace(with_loss, trainer=trainer)
    plain = problem(profile("a", train=2e-3), samples=1600)
    case = dataclasses.replace(problem(with_loss, samples=1600), loss_bytes=100.0)
    before, predicted = (costs.evaluate(each, ALONE) for each in (plain, case))
    assert predicted.total_seconds == pytest.approx(before.total_seconds + 1600 * 1e-2)
    more = predicted.devices[A].storage_bytes - before.devices[A].storage_bytes
    assert more == pytest.approx(1600 * 100, rel=0.01)


def test_a_filled_cache_costs_no_fill() -> None:
    case = problem(profile("a"), fill_samples=0)
    assert costs.evaluate(case, ALONE).fill_seconds == 0


def test_a_device_profiled_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two profiles"):
        problem(profile("a"), profile("a"))


# ---- encoder-decoders: three encoder blocks, then four of a decoder

TWO = manifest((12 * MB, *[2 * MB] * 6), encoder_blocks=3, task="seq2seq")


def two_stacks(*profiles, **changes):
    return problem(*profiles, manifest=TWO, **changes)


def test_a_cut_carries_what_is_needed_behind_it_and_no_more() -> None:
    encoder, decoder, ids = 13 * 384 * 4, 5 * 384 * 4, 5 * 4
    assert tuple(two_stacks().carried_bytes) == (
        *(0, encoder + ids, encoder + ids),
        *(encoder + ids, encoder + decoder, encoder + decoder, encoder + decoder),
        0,
    )


def test_every_byte_between_two_stacks_is_sent_and_received() -> None:
    case = two_stacks(profile("a"), profile("b"))
    for cut in range(1, 7):
        sent, got = bytes_of(case, ((0, cut), (cut, 7)), (0.5, 0.5))
        assert sent == pytest.approx(got)


def test_blocks_cost_by_the_tokens_of_their_own_sequence() -> None:
    case = two_stacks(profile("a", layer=1e-5))
    encoder = fill.stage_seconds_per_micro_batch(case, case.profiles[0], 1, 3, 1)
    decoder = fill.stage_seconds_per_micro_batch(case, case.profiles[0], 4, 7, 1)
    assert encoder == pytest.approx(2 * 13 * 1e-5)
    assert decoder == pytest.approx(3 * 5 * 1e-5)
    rows = memory.cache_bytes_per_sample(case) / case.cache_row_bytes
    assert rows == pytest.approx(3 * 13 + 4 * 5)


def test_terms_are_the_same_for_one_stage_and_for_many_at_once() -> None:
    link = LinkProfile(up_bits_per_second=1e8, down_bits_per_second=1e7, latency_seconds=0.01)
    handling = HandlingProfile(
        seconds_per_message=1e-3,
        seconds_per_byte=1e-8,
        seconds_per_encoded_byte=1e-9,
        seconds_per_stage_run=1e-3,
        seconds_per_stage_token=1e-6,
    )
    case = two_stacks(dataclasses.replace(profile("a", link=link), handling=handling))
    device, owning = case.profiles[0], fill.OwnedFraction(part=0.25, others=2)
    first, last = np.triu_indices(8, 1)
    many = fill.fill_load(case, device, first, last, owning, 4)
    sizes = memory.stage_memory_bytes(case, first, last, 4)
    for index, (start, end) in enumerate(zip(first, last, strict=True)):
        one = fill.fill_load(case, device, int(start), int(end), owning, 4)
        assert many.seconds(0.5)[index] == pytest.approx(one.seconds(0.5))
        assert sizes[index] == memory.stage_memory_bytes(case, int(start), int(end), 4)


def test_memory_of_a_stage_grows_with_it_across_the_stacks() -> None:
    case = two_stacks()
    for first in range(7):
        sizes = [memory.stage_memory_bytes(case, first, last, 4) for last in range(first + 1, 8)]
        assert sizes == sorted(sizes)


def test_a_sequence_without_known_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="every sequence"):
        two_stacks(tokens={"encoder": Tokens(mean=1.0, max=2)})
    with pytest.raises(ValueError, match="at most max"):
        Tokens(mean=3.0, max=2)
