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
from edge_runtime.training.allreduce import AllReduce

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

        return AllReduce(
            me=name, trainers=self.names, size=size, send=send, rounding=HalfPrecision()
        )

    def reduce(self, gradients: list[np.ndarray]) -> list[np.ndarray]:
        return self.reduce_counted(gradients, [1] * len(gradients))[0]

    def reduce_counted(
        self, gradients: list[np.ndarray], counts: list[int]
    ) -> tuple[list[np.ndarray], list[int]]:
        results = [gradient.copy() for gradient in gradients]
        with ThreadPoolExecutor(len(self.names)) as pool:
            jobs = [
                pool.submit(self.members[name].reduce, result, count)
                for name, result, count in zip(self.names, results, counts, strict=True)
            ]
            return results, [job.result(WAIT_SECONDS) for job in jobs]


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
    all_reduce = AllReduce(
        me=names[0],
        trainers=names,
        size=10,
        send=lambda peer, part: sent.set(),
        rounding=HalfPrecision(),
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(all_reduce.reduce, np.zeros(10, np.float32), 1)
        assert sent.wait(WAIT_SECONDS)
        all_reduce.close()
        with pytest.raises(AllReduceClosedError):
            waiting.result(WAIT_SECONDS)


def _all_reduce() -> AllReduce:
    names = [DeviceId("a"), DeviceId("b")]
    return AllReduce(
        me=names[0],
        trainers=names,
        size=10,
        send=lambda peer, part: None,
        rounding=HalfPrecision(),
    )


@pytest.mark.parametrize(
    ("sender", "step", "size"),
    [("stranger", 0, 5), ("a", 0, 5), ("b", 2, 5), ("b", -1, 5), ("b", 0, 6)],
)
def test_parts_out_of_turn_are_rejected(sender: str, step: int, size: int) -> None:
    part = GradientPart(step=step, values=np.zeros(size, np.float16), count=1)
    with pytest.raises(RemoteError):
        _all_reduce().deliver(DeviceId(sender), part)


def test_the_same_part_twice_is_rejected() -> None:
    all_reduce = _all_reduce()
    part = GradientPart(step=0, values=np.zeros(5, np.float16), count=1)
    all_reduce.deliver(DeviceId("b"), part)
    with pytest.raises(RemoteError):
        all_reduce.deliver(DeviceId("b"), part)


def test_a_device_that_is_no_trainer_cannot_take_part() -> None:
    with pytest.raises(RemoteError):
        AllReduce(
            me=DeviceId("x"),
            trainers=[DeviceId("a")],
            size=1,
            send=lambda peer, part: None,
            rounding=HalfPrecision(),
        )


PEER = DeviceId("b")


@pytest.mark.parametrize("kind", [GradientPart, ReducedPart])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_part_that_is_not_finite_is_rejected(
    kind: type[GradientPart | ReducedPart], value: float
) -> None:
    values = np.array([0, 1, value, 2, 3], np.float16)
    count = {"count": 1} if kind is GradientPart else {}
    with pytest.raises(RemoteError, match="not finite"):
        _all_reduce().deliver(PEER, kind(step=0, values=values, **count))


@pytest.mark.parametrize("scale", [0.0, -1.0, 3.0, 1e-300, 1e300, 2.0**-121, np.nan, np.inf])
def test_a_scale_that_no_trainer_rounds_with_is_rejected(scale: float) -> None:
    part = GradientPart(step=0, values=np.ones(5, np.float16), count=1, scale=scale)
    with pytest.raises(RemoteError, match="scale"):
        _all_reduce().deliver(PEER, part)


def test_a_gradient_far_beyond_all_others_is_rejected() -> None:
    part = GradientPart(step=0, values=np.ones(5, np.float16), count=1, scale=2.0**-30)
    with pytest.raises(RemoteError, match=r"values of 1\.07e"):
        _all_reduce().deliver(PEER, part)
    plausible = GradientPart(step=0, values=np.ones(5, np.float16), count=1, scale=2.0**-10)
    _all_reduce().deliver(PEER, plausible)


def test_a_count_that_cannot_be_is_rejected_and_its_sender_named() -> None:
    all_reduce = _all_reduce()
    all_reduce.deliver(PEER, GradientPart(step=0, values=np.ones(5, np.float16), count=7))
    with pytest.raises(RemoteError, match=r"^b sent a wrong count: 11 samples in a step of 10$"):
        all_reduce.reduce(np.ones(10, np.float32), 4, samples=10)


def test_counts_of_all_samples_pass() -> None:
    all_reduce = _all_reduce()
    all_reduce.deliver(PEER, GradientPart(step=0, values=np.ones(5, np.float16), count=6))
    all_reduce.deliver(PEER, ReducedPart(step=0, values=np.ones(5, np.float16)))
    assert all_reduce.reduce(np.ones(10, np.float32), 4, samples=10) == 10
