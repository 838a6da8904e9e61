"""Bytes come from files as they were written, however little the system gives at a time."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edge_runtime.cache.plain_format import PlainFormat
from edge_runtime.cache.segments import Segments

ROWS = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4)


@pytest.fixture
def segments(tmp_path):
    files = Segments(tmp_path, 1 << 20, PlainFormat())
    files.open()
    files.append([b"header", ROWS.tobytes()])
    yield files
    files.close()


def read(segments, offset: int = 6):
    """Reads to places that lie apart."""
    apart = np.zeros((3, 9, 4), np.uint8)
    places = apart[:, 2:7]
    return segments.read_into(1, offset, list(places)), places


@pytest.mark.parametrize("most", [1, 7, 20, 33, 1000])
def test_reading_goes_on_where_the_system_stopped(segments, monkeypatch, most):
    whole = os.preadv

    def some(file, buffers, offset):
        left, given = most, []
        for buffer in buffers:
            given.append(memoryview(buffer).cast("B")[:left])
            left -= len(given[-1])
        return whole(file, given, offset)

    monkeypatch.setattr(os, "preadv", some)
    was_read, places = read(segments)
    assert was_read
    assert np.array_equal(places, ROWS)


def test_a_file_that_ends_too_early_is_not_read(segments):
    assert not read(segments, offset=7)[0]


def test_a_disk_that_fails_is_not_read(segments, monkeypatch):
    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    assert not read(segments)[0]
