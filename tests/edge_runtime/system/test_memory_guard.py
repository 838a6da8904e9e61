import pytest

from edge_runtime.system import memory_guard
from edge_runtime.system.memory_guard import READ_SECONDS, RESERVE_BYTES, MemoryGuard

MB = 1 << 20


class Memory:
    """Says what is free, and how often it was asked."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes, self.asked = free_bytes, 0

    def __call__(self) -> int:
        self.asked += 1
        return self.free_bytes


def test_all_is_allowed_where_there_is_plenty_and_nobody_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Memory(4096 * MB)
    guard = MemoryGuard(memory)
    for _ in range(100):
        assert guard.most_bytes(60 * MB) >= 60 * MB
        guard.computed(60 * MB)
    assert memory.asked < 100, "reading it costs more than the look at what was read"
    assert (guard.frugal, caplog.text) == (False, "")


def test_a_part_fits_what_is_free_besides_the_reserve_and_the_results(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = MemoryGuard(Memory(RESERVE_BYTES + 30 * MB))
    for _ in range(3):
        assert guard.most_bytes(60 * MB, 10 * MB) == 20 * MB
    assert caplog.messages == ["memory is short: work is done in smaller parts, more slowly"]


def test_what_was_computed_with_may_be_used_again() -> None:
    memory = Memory(RESERVE_BYTES + 60 * MB)
    guard = MemoryGuard(memory)
    assert guard.most_bytes(60 * MB) == 60 * MB
    guard.computed(60 * MB)
    memory.free_bytes = RESERVE_BYTES  # a runtime keeps what it was given
    assert guard.most_bytes(60 * MB) == 60 * MB
    guard.released()
    assert guard.most_bytes(60 * MB) == 0


def test_below_the_reserve_memory_is_given_back_until_there_is_plenty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(memory_guard, "trim", lambda: trimmed.append(1))
    memory = Memory(RESERVE_BYTES + 60 * MB)
    guard = MemoryGuard(memory)
    guard.most_bytes(60 * MB)
    guard.computed(60 * MB)
    assert not trimmed

    memory.free_bytes = RESERVE_BYTES - 1
    assert guard.most_bytes(60 * MB) == 15 * MB
    assert guard.frugal
    guard.computed(15 * MB)
    assert trimmed

    memory.free_bytes = RESERVE_BYTES + 60 * MB
    assert guard.most_bytes(60 * MB) == 30 * MB, "it was too much, as it turned out"
    assert guard.frugal
    memory.free_bytes = RESERVE_BYTES + 1000 * MB
    assert guard.most_bytes(60 * MB) >= 60 * MB
    assert not guard.frugal


def test_plenty_is_looked_at_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(memory_guard.time, "monotonic", lambda: now[0])
    memory = Memory(4096 * MB)
    guard = MemoryGuard(memory)
    guard.most_bytes(60 * MB)
    memory.free_bytes = 0
    assert not (guard.most_bytes(60 * MB), guard.frugal)[1]
    now[0] += READ_SECONDS
    guard.most_bytes(60 * MB)
    assert guard.frugal
