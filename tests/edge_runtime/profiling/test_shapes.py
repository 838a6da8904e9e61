"""Shapes that are measured fit the memory that there is."""

from edge_runtime.profiling.shapes import fitting_lengths


def squares(lengths) -> int:
    return max(lengths.values()) ** 2


def test_lengths_are_halved_until_one_sample_fits() -> None:
    assert fitting_lengths({"encoder": 6502}, squares, 1_000_000) == {"encoder": 812}
    assert fitting_lengths({"encoder": 100}, squares, 1_000_000) == {"encoder": 100}


def test_something_is_measured_however_little_memory_there_is() -> None:
    assert fitting_lengths({"encoder": 9, "decoder": 3}, squares, 0) == {"encoder": 1, "decoder": 1}
