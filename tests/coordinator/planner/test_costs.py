import pytest

from coordinator.planner import costs
from coordinator.planner.problem import Tokens
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.profile import LinkProfile
from tests.coordinator.planning import MB, manifest, problem, profile

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
    assert costs.stage_weight_bytes(manifest(), 0, 1) == 12 * MB
    assert costs.stage_weight_bytes(manifest(), 1, 4) == 7 * MB


def test_memory_of_a_stage_grows_with_blocks_and_micro_batch() -> None:
    case = problem(profile("a"))
    sizes = [costs.stage_memory_bytes(case, 2, last, 8) for last in range(3, 8)]
    assert sizes == sorted(sizes)
    assert costs.stage_memory_bytes(case, 2, 3, 16) > sizes[0]


def test_one_device_takes_its_forward_time_for_every_sample() -> None:
    case = problem(profile("a", layer=1e-5), samples=1600)
    predicted = costs.evaluate(case, ALONE)
    compute = 1600 * 13 * 6.1 * 1e-5
    assert predicted.fill_seconds == pytest.approx(compute + 100 * costs.MICRO_BATCH_SECONDS)
    assert predicted.devices[A].fill_seconds == pytest.approx(predicted.fill_seconds)


def test_one_trainer_exchanges_nothing() -> None:
    case = problem(profile("a", train=2e-3), samples=1600)
    predicted = costs.evaluate(case, ALONE)
    assert predicted.epoch_seconds == pytest.approx(3.2)
    assert predicted.total_seconds == pytest.approx(predicted.fill_seconds + 5 * 3.2)


def test_a_pipeline_runs_at_the_pace_of_its_slowest_stage() -> None:
    case = problem(profile("a"), profile("b", layer=3e-5), samples=1600)
    predicted = costs.evaluate(case, PIPELINE)
    slowest = 16 * 13 * 4 * 3e-5 + costs.MICRO_BATCH_SECONDS
    other = 16 * 13 * 2.1 * 1e-5 + costs.MICRO_BATCH_SECONDS
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


def test_every_byte_that_is_sent_is_received() -> None:
    case = problem(profile("a"), profile("b"))
    for shares in ((1.0, 0.0), (0.25, 0.75), (0.0, 1.0)):
        stages = ((0, 3), (3, 7))
        sent = [costs.sent_bytes(case, s, 1.0, o) for s, o in zip(stages, shares, strict=True)]
        got = [costs.received_bytes(case, s, 1.0, o) for s, o in zip(stages, shares, strict=True)]
        assert sum(sent) == pytest.approx(sum(got))


def test_exchange_costs_more_with_a_slower_link() -> None:
    link = LinkProfile(up_bits_per_second=1e8, down_bits_per_second=1e7, latency_seconds=0.01)
    case = problem(profile("a"), profile("b", link=link))
    # Two trainers: each sends and receives the whole gradient once a step.
    expected = costs.EXCHANGE_SECONDS + 8 * 400_000 / 1e7 + 0.02
    assert costs.exchange_seconds(case, case.profiles) == pytest.approx(expected)


def test_memory_counts_runtime_stage_and_training() -> None:
    case = problem(profile("a"), profile("b"))
    predicted = costs.evaluate(case, PIPELINE).devices
    stage = costs.stage_memory_bytes(case, 0, 3, 16)
    assert predicted[A].memory_bytes == 50 * MB + stage + 100 * MB
    assert predicted[B].memory_bytes == 50 * MB + costs.stage_memory_bytes(case, 3, 7, 16)


def test_storage_is_the_owners_share_of_the_cache() -> None:
    case = problem(profile("a"), profile("b"))
    predicted = costs.evaluate(case, plan((0, 7, {A: 1.0}), owners={A: 4, B: 12})).devices
    assert predicted[B].storage_bytes == 3 * predicted[A].storage_bytes
    assert predicted[A].storage_bytes == pytest.approx(6000 / 4 * 13 * 7 * 768, rel=1e-6)


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
    assert two_stacks().carried_bytes == (
        *(0, encoder + ids, encoder + ids),
        *(encoder + ids, encoder + decoder, encoder + decoder, encoder + decoder),
        0,
    )


def test_every_byte_between_two_stacks_is_sent_and_received() -> None:
    case = two_stacks(profile("a"), profile("b"))
    for cut in range(1, 7):
        stages = ((0, cut), (cut, 7))
        sent = sum(costs.sent_bytes(case, stage, 1.0, 0.5) for stage in stages)
        got = sum(costs.received_bytes(case, stage, 1.0, 0.5) for stage in stages)
        assert sent == pytest.approx(got)


def test_blocks_cost_by_the_tokens_of_their_own_sequence() -> None:
    case = two_stacks(profile("a", layer=1e-5))
    encoder = costs.stage_seconds_per_sample(case, case.profiles[0], 1, 3)
    decoder = costs.stage_seconds_per_sample(case, case.profiles[0], 4, 7)
    assert encoder == pytest.approx(2 * 13 * 1e-5)
    assert decoder == pytest.approx(3 * 5 * 1e-5)
    rows = costs.cache_bytes_per_sample(case) / case.cache_row_bytes
    assert rows == pytest.approx(3 * 13 + 4 * 5)


def test_memory_of_a_stage_grows_with_it_across_the_stacks() -> None:
    case = two_stacks()
    for first in range(7):
        sizes = [costs.stage_memory_bytes(case, first, last, 4) for last in range(first + 1, 8)]
        assert sizes == sorted(sizes)


def test_a_sequence_without_known_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="every sequence"):
        two_stacks(tokens={"encoder": Tokens(mean=1.0, max=2)})
    with pytest.raises(ValueError, match="at most max"):
        Tokens(mean=3.0, max=2)
