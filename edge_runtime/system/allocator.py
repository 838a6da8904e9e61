"""Tunes the C library's allocator for arrays that come and go in every step."""

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_REUSED_BYTES = 32 << 20
_KEPT_BYTES = 32 << 20
_ARENAS = 2


def tune_allocator() -> None:
    """Has glibc reuse freed memory instead of giving every large array back to the kernel.

    By default an array above 128 kB is mapped anew each time and its pages are faulted in
    one by one, which costs ten times what filling it does. Few arenas keep a process with
    several threads from holding several times the memory. Does nothing elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl and Android's bionic have no such call
        return
    mallopt(_ARENA_MAX, _ARENAS)
    mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
