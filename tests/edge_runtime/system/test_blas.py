from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.system import blas


def test_products_take_so_many_threads_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [4]
    monkeypatch.setattr(blas, "_calls", lambda: (lambda: threads[-1], threads.append))

    with blas.blas_threads(1):
        assert threads[-1] == 1
    assert threads[-1] == 4


def test_an_error_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [4]
    monkeypatch.setattr(blas, "_calls", lambda: (lambda: threads[-1], threads.append))

    with pytest.raises(ZeroDivisionError), blas.blas_threads(1):
        _ = 1 / 0
    assert threads[-1] == 4


def test_a_library_that_cannot_be_told_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_calls", lambda: None)

    with blas.blas_threads(1):
        assert (np.eye(3) @ np.eye(3)).sum() == 3


def test_the_library_of_numpys_wheels_can_be_told() -> None:
    calls = blas._calls()
    if calls is None:
        pytest.skip("numpy has another library here")
    get, _ = calls
    with blas.blas_threads(1):
        assert get() == 1
