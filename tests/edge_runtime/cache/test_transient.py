"""Samples that the disk has no room for can be held in memory until they were used."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.cache.keys import CacheKeys
from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.cache.store import CacheMiss
from edge_runtime.contract.messages import IN_MEMORY, NOT_KEPT, ON_DISK
from tests.edge_runtime.training.mesh import Data, Transformations, open_cache

BOTH = [0, 1, 2, 3]


def cache_of(data, root, quota_bytes=0, transient_bytes=1 << 20) -> SampleCache:
    request = dataclasses.replace(open_cache(data), quota_bytes=quota_bytes)
    return SampleCache(request, root, CacheKeys(root), transient_bytes)


def test_without_room_only_the_samples_that_are_wanted_now_are_held(tmp_path):
    data = Data()
    cache = cache_of(data, tmp_path)
    cache.hold_for_now(data.keys[[1, 3]])
    assert cache.append(data.states(BOTH)).tolist() == [NOT_KEPT, IN_MEMORY, NOT_KEPT, IN_MEMORY]
    assert not cache.held(data.keys[BOTH]).any(), "they do not outlive their step"
    assert cache.held_now(data.keys[BOTH]).tolist() == [False, True, False, True]
    with pytest.raises(CacheMiss):
        cache.read(data.keys[[0, 1]], "encoder")
    cache.close()


@pytest.mark.parametrize("data", [Data(), Transformations()], ids=["one sequence", "two"])
def test_states_in_memory_read_as_those_on_the_disk(tmp_path, data):
    whole, partial = cache_of(data, tmp_path / "a", None), cache_of(data, tmp_path / "b", 1500)
    partial.hold_for_now(data.keys)
    kept = set()
    for stream, layers in data.layers.items():
        for layer in layers:  # some layers of a sample fit, others do not
            states = data.states(BOTH, layers=(layer,), stream=stream)
            assert (whole.append(states) == ON_DISK).all()
            kept |= set(partial.append(states).tolist())
    assert kept == {ON_DISK, IN_MEMORY}
    assert partial.held_now(data.keys[BOTH]).all()
    for stream in data.layers:
        for ours, theirs in zip(
            partial.read(data.keys[BOTH], stream), whole.read(data.keys[BOTH], stream), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(
            partial.read_packed(data.keys[BOTH], stream),
            whole.read_packed(data.keys[BOTH], stream),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
    whole.close()
    partial.close()


def test_samples_that_are_not_wanted_any_more_leave_room(tmp_path):
    data = Data()
    size = data.states([0]).encoded.nbytes
    cache = cache_of(data, tmp_path, transient_bytes=size)
    cache.hold_for_now(data.keys)
    assert cache.append(data.states([0])).tolist() == [IN_MEMORY]
    assert cache.transient_bytes == size
    assert cache.append(data.states([0])).tolist() == [IN_MEMORY], "again, in the same place"
    assert cache.append(data.states([1])).tolist() == [NOT_KEPT]
    cache.hold_for_now(data.keys[[1]])
    assert cache.transient_bytes == 0
    assert not cache.held_now(data.keys[[0]]).any()
    cache.close()


def test_what_the_disk_holds_takes_no_memory(tmp_path):
    data = Data()
    cache = cache_of(data, tmp_path, None)
    cache.hold_for_now(data.keys)
    assert (cache.append(data.states(BOTH)) == ON_DISK).all()
    assert cache.transient_bytes == 0
    assert cache.held_now(data.keys[BOTH]).all()
    cache.close()


def test_a_peer_that_says_two_lengths_of_a_sample_breaks_nothing(tmp_path):
    data = Data()
    cache = cache_of(data, tmp_path)
    cache.hold_for_now(data.keys[[0]])
    whole = data.states([0], layers=(1, 2))
    shorter = dataclasses.replace(
        whole, lengths=whole.lengths - 1, encoded=whole.encoded[:, :-1].copy()
    )
    cache.append(data.states([0], layers=(0,)))
    cache.append(shorter)
    with pytest.raises(CacheMiss):
        cache.read(data.keys[[0]], "encoder")
    assert not cache.held_now(data.keys[[0]]).any()
    cache.close()
