"""Gradients are summed alike on every trainer, whoever is first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_runtime.contract.errors import AllReduceClosedError, RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import GradientPart, ReducedPart
from edge_runtime.parallel_adapters.rounding import HalfPrecision
from edge_runtime.training import allreduce
from edge_runtime.training.allreduce import AllReduce, Contribution
from edge_runtime.training.part_checks import Limits, liars

WAIT_SECONDS = 20


class Mesh:
    """Trainers in one process; messages are delivered at once."""

    def __init__(self, count: int, size: int) -> None:
        self.names = [DeviceId(f"t{i}") for i in range(count)]
        self.sent_bytes = dict.fromkeys(self.names, 0)
        self.members = {name: self._member(name, size) for name in self.names}

    def _member(self, name: DeviceId, size: int) -> AllReduce:
        def send(peer: DeviceId, part: GradientPart | ReducedPart) -> None:
            self.sent_bytes[name] += part.values.nbytes
            self.members[peer].deliver(name, part)

        return all_reduce_of(name, self.names, size, send)

    def reduce(self, gradients: list[np.ndarray]) -> list[np.ndarray]:
        return self.reduce_counted(gradients, [1] * len(gradients))[0]

    def reduce_counted(
        self, gradients: list[np.ndarray], counts: list[int]
    ) -> tuple[list[np.ndarray], list[int]]:
        results = [gradient.copy() for gradient in gradients]
        with ThreadPoolExecutor(len(self.names)) as pool:
            jobs = [
                pool.submit(self.members[name].reduce, result, counted(count), len(counts))
                for name, result, count in zip(self.names, results, counts, strict=True)
            ]
            return results, [job.result(WAIT_SECONDS).count for job in jobs]


def counted(count: int) -> Contribution:
    return Contribution(samples=1, count=count, loss_sum=count / 3)


def all_reduce_of(me, trainers, size, send=lambda peer, part: None, **changes) -> AllReduce:
    """Of steps with 4 samples, whose tokens are counted."""
    fields = {
        "rounding": HalfPrecision(),
        "limits": Limits(samples=4, counts_tokens=True),
        "report": lambda step, peers: None,
        "reject": lambda peer, reason: None,
    }
    return AllReduce(me=me, trainers=trainers, size=size, send=send, **(fields | changes))


def gradients(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(size).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("counts", [[7], [3, 40], [0, 5, 1], [0, 0]])
def test_every_trainer_learns_the_global_count(counts: list[int]) -> None:
    mesh = Mesh(len(counts), 10)
    for step in range(3):
        stepped = [count * (step + 1) for count in counts]
        _, totals = mesh.reduce_counted(gradients(len(counts), 10, step), stepped)
        assert totals == [sum(stepped)] * len(counts)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_trainer_gets_the_same_sum_to_the_last_bit(count: int) -> None:
    mesh = Mesh(count, 1001)
    for step in range(4):
        parts = gradients(count, 1001, step)
        results = mesh.reduce(parts)
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
        np.testing.assert_allclose(results[0], np.sum(parts, axis=0), atol=count * 4e-3)


def test_one_trainer_alone_keeps_its_gradient_exactly() -> None:
    (gradient,) = gradients(1, 100)
    (result,) = Mesh(1, 100).reduce([gradient])
    np.testing.assert_array_equal(result, gradient)


def test_three_trainers_each_send_four_thirds_of_a_half_precision_gradient() -> None:
    mesh = Mesh(3, 3000)
    mesh.reduce(gradients(3, 3000))
    assert set(mesh.sent_bytes.values()) == {3000 * 2 * 4 // 3}


def test_more_trainers_than_values_still_add_up() -> None:
    parts = gradients(4, 2)
    results = Mesh(4, 2).reduce(parts)
    np.testing.assert_allclose(results[0], np.sum(parts, axis=0), atol=0.02)


def test_closing_ends_a_step_that_waits_for_a_lost_peer() -> None:
    names = [DeviceId("a"), DeviceId("b")]
    sent = threading.Event()
    all_reduce = all_reduce_of(names[0], names, 10, lambda peer, part: sent.set())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(all_reduce.reduce, np.zeros(10, np.float32), counted(1), 2)
        assert sent.wait(WAIT_SECONDS)
        all_reduce.close()
        with pytest.raises(AllReduceClosedError):
            waiting.result(WAIT_SECONDS)


def _all_reduce() -> AllReduce:
    names = [DeviceId("a"), DeviceId("b")]
    return all_reduce_of(names[0], names, 10)


@pytest.mark.parametrize(
    ("sender", "step", "size"),
    [("stranger", 0, 5), ("a", 0, 5), ("b", 2, 5), ("b", -1, 5), ("b", 0, 6)],
)
def test_parts_out_of_turn_are_rejected(sender: str, step: int, size: int) -> None:
    values = np.zeros(size, np.float16)
    with pytest.raises(RemoteError):
        _all_reduce().deliver(DeviceId(sender), part(step=step, values=values))


def test_the_same_part_twice_is_rejected() -> None:
    all_reduce = _all_reduce()
    all_reduce.deliver(DeviceId("b"), part())
    with pytest.raises(RemoteError):
        all_reduce.deliver(DeviceId("b"), part())


def test_a_device_that_is_no_trainer_cannot_take_part() -> None:
    with pytest.raises(RemoteError):
        all_reduce_of(DeviceId("x"), [DeviceId("a")], 1)


def part(**changes) -> GradientPart:
    fields = {"step": 0, "values": np.zeros(5, np.float16), "count": 1, "samples": 1} | changes
    return GradientPart(**fields)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"values": np.array([0, 0, np.nan, 0, 0], np.float16)}, id="not a number"),
        pytest.param({"values": np.array([0, 0, 0, 0, -np.inf], np.float16)}, id="infinite"),
        pytest.param({"values": np.zeros(5, np.float32)}, id="of another dtype"),
        pytest.param({"scale": np.nan}, id="with a scale that is no number"),
        pytest.param({"scale": np.inf}, id="with an infinite scale"),
        pytest.param({"scale": -1.0}, id="with a negative scale"),
        pytest.param({"scale": 1e-200}, id="with a tiny scale"),
        pytest.param({"scale": 3.0}, id="with a scale that is no power of two"),
        pytest.param({"samples": 5}, id="of more samples than a step has"),
        pytest.param({"samples": 0}, id="of tokens without samples"),
        pytest.param({"loss_sum": -1.0}, id="of a negative loss"),
    ],
)
def test_parts_that_cannot_be_are_rejected_and_the_right_one_is_still_taken(changes) -> None:
    all_reduce = _all_reduce()
    with pytest.raises(RemoteError):
        all_reduce.deliver(DeviceId("b"), part(**changes))
    all_reduce.deliver(DeviceId("b"), part())


def test_where_samples_are_counted_the_count_is_theirs() -> None:
    names = [DeviceId("a"), DeviceId("b")]
    limits = Limits(samples=4, counts_tokens=False)
    for count in (0, 3):
        with pytest.raises(RemoteError, match="count as"):
            all_reduce_of(*(names[0], names, 10), limits=limits).deliver(
                names[1], part(samples=2, count=count)
            )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reduced_part_that_is_not_finite_is_rejected(value) -> None:
    reduced = ReducedPart(step=0, values=np.full(5, value, np.float16))
    with pytest.raises(RemoteError, match="not finite"):
        _all_reduce().deliver(DeviceId("b"), reduced)


def test_a_group_that_begins_in_the_middle_takes_parts_of_its_step() -> None:
    names = [DeviceId("a"), DeviceId("b")]
    all_reduce = all_reduce_of(names[0], names, 10, step=7)
    all_reduce.deliver(names[1], part(step=7))
    all_reduce.deliver(names[1], part(step=8))
    for step in (6, 9):
        with pytest.raises(RemoteError, match="unexpected"):
            all_reduce.deliver(names[1], part(step=step))


def test_a_step_that_waits_long_says_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allreduce, "AWAITING_SECONDS", 0.01)
    names = [DeviceId(name) for name in "abc"]
    reported, told = [], threading.Event()

    def report(step: int, peers: tuple[DeviceId, ...]) -> None:
        reported.append((step, peers))
        told.set()

    all_reduce = all_reduce_of(names[0], names, 9, report=report, step=3)
    all_reduce.deliver(names[1], part(step=3, values=np.zeros(3, np.float16)))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(all_reduce.reduce, np.zeros(9, np.float32), counted(1), 3)
        assert told.wait(WAIT_SECONDS)
        all_reduce.close()
        with pytest.raises(AllReduceClosedError):
            waiting.result(WAIT_SECONDS)
    assert set(reported) == {(3, (names[2],))}


def test_a_trainer_alone_stops_at_the_end_of_its_group() -> None:
    alone = all_reduce_of(DeviceId("a"), [DeviceId("a")], 2)
    gradient = np.ones(2, np.float32)
    assert alone.reduce(gradient, counted(3), 1) == counted(3)
    assert alone.step == 1
    alone.close()
    with pytest.raises(AllReduceClosedError):
        alone.reduce(gradient, counted(3), 1)


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e300, 2.0**-121])
def test_a_scale_that_no_trainer_rounds_with_is_rejected(scale: float) -> None:
    with pytest.raises(RemoteError, match="scale"):
        _all_reduce().deliver(DeviceId("b"), part(scale=scale))


def test_a_gradient_far_beyond_all_others_is_rejected() -> None:
    ones = np.ones(5, np.float16)
    with pytest.raises(RemoteError, match=r"values of 1\.07e"):
        _all_reduce().deliver(DeviceId("b"), part(values=ones, scale=2.0**-30))
    _all_reduce().deliver(DeviceId("b"), part(values=ones, scale=2.0**-10))


def test_a_wrong_number_of_samples_is_put_down_to_its_sender_and_the_step_waits() -> None:
    names, rejected, told = [DeviceId("a"), DeviceId("b")], [], threading.Event()

    def reject(peer: DeviceId, reason: str) -> None:
        rejected.append((peer, reason))
        told.set()

    all_reduce = all_reduce_of(names[0], names, 10, reject=reject)
    all_reduce.deliver(names[1], part(samples=2, count=2))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(all_reduce.reduce, np.zeros(10, np.float32), counted(1), 2)
        assert told.wait(WAIT_SECONDS)
        all_reduce.close()
        with pytest.raises(AllReduceClosedError):
            waiting.result(WAIT_SECONDS)
    assert rejected == [(names[1], "2 of 3 samples in a step of 2")]


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        ({"a": 1, "b": 3}, []),
        ({"a": 1, "b": 2}, ["b"]),
        ({"a": 1, "b": 4, "c": 1}, ["b"]),
        ({"a": 1, "b": 1, "c": 1}, []),  # either of them
    ],
)
def test_who_has_lied_is_told_where_that_can_be_told(samples, found) -> None:
    assert liars(samples, 4, DeviceId("a")) == found
