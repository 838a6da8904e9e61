import os

import pytest

from edge_runtime.cache.inspect import describe, remove
from edge_runtime.cache.store import ActivationCache
from edge_runtime.contract.errors import BadInputError
from tests.edge_runtime.cache.samples import DIGEST, append, keys_of, open_cache


def test_no_caches_are_an_empty_list(tmp_path):
    assert describe(tmp_path / "absent") == []


def test_each_cache_is_described_last_used_first(tmp_path):
    with open_cache(tmp_path) as old:
        append(old, [1, 2])
        append(old, [1], [7])
    os.utime(old.folder / "lock", (1000, 1000))
    with open_cache(tmp_path, "int8") as new:
        append(new, [1])
        (tmp_path / "unrelated").mkdir()
        first, second = describe(tmp_path)  # while it is in use
        assert (first.dtype, first.samples, first.bytes) == ("int8", 1, new.bytes_used)
    assert (second.backbone_digest, second.dtype, second.samples) == (DIGEST, "fp32", 2)
    assert second.last_used_seconds == 1000


def test_removing_frees_every_dtype_of_the_backbone_and_nothing_else(tmp_path):
    sizes = 0
    for dtype in ("fp32", "int8"):
        with open_cache(tmp_path, dtype) as cache:
            append(cache, [1])
            sizes += cache.bytes_used
    with ActivationCache(tmp_path, "cd" * 32, "fp32", 8, numerics="n"):
        assert remove(tmp_path, DIGEST[:8]) == sizes
    assert [one.backbone_digest for one in describe(tmp_path)] == ["cd" * 32]


@pytest.mark.parametrize("digest", ["", "a", "ff"])
def test_removing_needs_exactly_one_backbone(tmp_path, digest):
    open_cache(tmp_path).close()
    ActivationCache(tmp_path, "aa" * 32, "fp32", 8, numerics="n").close()
    with pytest.raises(BadInputError, match="pacplus-device cache lists them"):
        remove(tmp_path, digest)
    assert len(describe(tmp_path)) == 2


def test_a_cache_in_use_is_not_removed(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [1])
        with pytest.raises(BadInputError, match="in use"):
            remove(tmp_path, DIGEST)
        assert cache.held(keys_of([1]), [0]).all()
