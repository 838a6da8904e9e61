"""What losses over candidates keep, beside the states that it was found from."""

import numpy as np
import pytest

from edge_runtime.cache import candidate_cache
from edge_runtime.cache.candidate_cache import CandidateCache
from edge_runtime.cache.inspect import describe, remove
from edge_runtime.cache.store import ActivationCache

DIGEST = "ab" * 32
ROWS = np.arange(48, dtype=np.uint8).reshape(12, 4)
KEY, OTHER = b"k" * 32, b"o" * 32
SECRET = bytes(range(32))


def opened(root, *, head="h", best=16, quota_bytes=None, key=None) -> CandidateCache:
    folder = root / f"{DIGEST}-fp16"
    return CandidateCache(folder, head, best, quota_bytes=quota_bytes, numerics="x", key=key)


def test_what_was_put_is_there_for_later_runs_with_the_same_head_and_number(tmp_path) -> None:
    cache = opened(tmp_path)
    assert cache.get(KEY) is None
    cache.put(KEY, ROWS)
    np.testing.assert_array_equal(cache.get(KEY), ROWS)
    cache.close()
    for changes, there in (({}, True), ({"head": "i"}, False), ({"best": 8}, False)):
        cache = opened(tmp_path, **changes)
        assert (cache.get(KEY) is not None) == there
        cache.close()


def test_where_states_are_encrypted_so_are_candidates(tmp_path) -> None:
    pytest.importorskip("cryptography")
    cache = opened(tmp_path, key=SECRET)
    cache.put(KEY, ROWS)
    cache.close()
    (file,) = tmp_path.rglob("*.records")
    assert ROWS.tobytes() not in file.read_bytes()
    assert KEY not in file.read_bytes()
    cache = opened(tmp_path, key=SECRET)
    np.testing.assert_array_equal(cache.get(KEY), ROWS)
    cache.close()


def test_what_the_disk_has_no_room_for_stays_in_memory_while_it_is_little(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(candidate_cache, "MEMORY_BYTES", ROWS.nbytes)
    cache = opened(tmp_path, quota_bytes=10)
    for key in (KEY, OTHER):
        cache.put(key, ROWS)
    np.testing.assert_array_equal(cache.get(KEY), ROWS)
    assert cache.get(OTHER) is None
    cache.close()


def test_they_are_listed_and_removed_with_the_states(tmp_path) -> None:
    states = ActivationCache(tmp_path, DIGEST, "fp16", 4, numerics="x")
    keys = np.frombuffer(KEY, np.uint8)[None]
    states.append(keys, np.array([1]), (0,), np.zeros((1, 1, 8), np.uint8))
    alone = states.bytes_used
    states.close()
    cache = opened(tmp_path)
    cache.put(KEY, ROWS)
    cache.close()
    (found,) = describe(tmp_path)
    assert found.bytes > alone + ROWS.nbytes
    assert found.samples == 1
    assert remove(tmp_path, DIGEST) == found.bytes
    assert not list(tmp_path.iterdir())
