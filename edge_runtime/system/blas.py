"""Threads of the library that multiplies numpy's matrices."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
from collections.abc import Callable, Iterator

# Of numpy's wheels, of OpenBLAS as distributions have it, of MKL.
_NAMES = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)

_PRODUCTS = "numpy._core._multiarray_umath"


@contextlib.contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Has products of the whole process take so many threads meanwhile.

    By default they take every core: small ones, in a process that is to use one core, then wait for
    each other longer than they compute. Does nothing where the library has no such call.
    """
    calls = _calls()
    if calls is None:
        yield
        return
    get, put = calls
    before = get()
    put(count)
    try:
        yield
    finally:
        put(before)


@functools.cache
def _calls() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    try:
        products = importlib.import_module(_PRODUCTS)
        library = ctypes.CDLL(products.__file__)
    except (ImportError, OSError):
        return None
    for get, put in _NAMES:
        with contextlib.suppress(AttributeError):  # the library and those that it needs
            return getattr(library, get), getattr(library, put)
    return None
