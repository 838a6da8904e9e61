import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cache.store import ActivationCache, CacheMiss
from edge_runtime.contract.cache_format import CACHE_DTYPES
from edge_runtime.contract.cache_format.encoding import decode_into, encode
from edge_runtime.contract.errors import BadInputError
from tests.edge_runtime.cache.samples import (
    ALL_LAYERS,
    HIDDEN_SIZE,
    append,
    assert_reads,
    keys_of,
    open_cache,
    states_of,
    tokens_of,
)


@pytest.fixture
def cache(tmp_path):
    with open_cache(tmp_path) as cache:
        yield cache


def only_segment(root):
    (path,) = root.glob("*/*.records")
    return path


def test_what_was_appended_is_read_at_once(cache):
    assert append(cache, [1, 2, 3]).tolist() == [True, True, True]
    assert_reads(cache, [3, 1])


def test_what_was_appended_is_there_after_opening_again(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [1, 2])
        append(cache, [3])
    with open_cache(tmp_path) as cache:
        assert cache.samples == 3
        assert_reads(cache, [1, 2, 3])


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_a_batch_decodes_to_what_the_codec_makes_of_it(tmp_path, dtype):
    with open_cache(tmp_path, dtype) as cache:
        append(cache, [1, 2])
        hidden, _ = cache.read_batch(keys_of([1, 2]), ALL_LAYERS)
        expected = np.empty_like(states_of(2))
        decode_into(encode(states_of(2), dtype), expected, dtype)
        np.testing.assert_array_equal(hidden[:, 1, : tokens_of(2)], expected)
        assert not hidden[:, 0, tokens_of(1) :].any()


def test_layers_are_looked_up_one_by_one(cache):
    append(cache, [1, 2], [2, 3])
    assert not cache.held(keys_of([1]), ALL_LAYERS).any()
    append(cache, [1], [0, 1])
    assert cache.held(keys_of([1, 2]), ALL_LAYERS).tolist() == [True, False]
    assert_reads(cache, [1], [3, 0, 2])
    assert_reads(cache, [1, 2], [2, 3])


def test_only_missing_layers_are_stored(cache):
    append(cache, [1], [0, 2])
    before = cache.bytes_used
    append(cache, [1], ALL_LAYERS)
    added = cache.bytes_used - before
    append(cache, [1], ALL_LAYERS)
    assert cache.bytes_used == before + added
    payload = 2 * tokens_of(1) * HIDDEN_SIZE * 4
    assert payload < added < payload + 100
    assert_reads(cache, [1])


def test_a_sample_twice_in_a_micro_batch_is_stored_once(cache):
    assert append(cache, [1, 2, 1]).all()
    twice = cache.bytes_used
    cache.clear()
    append(cache, [1, 2])
    assert cache.bytes_used == twice


def test_rows_go_to_another_device_unchanged(cache, tmp_path):
    append(cache, [1, 2])
    lengths, encoded = cache.read_encoded(keys_of([2, 1]), [1, 2])
    with open_cache(tmp_path / "other") as other:
        assert other.append(keys_of([2, 1]), lengths, [1, 2], encoded).all()
        assert_reads(other, [1, 2], [1, 2])


def test_a_batch_of_nothing_is_empty(cache):
    assert cache.read_batch(keys_of([]), ALL_LAYERS)[0].shape == (4, 0, 0, HIDDEN_SIZE)
    assert append(cache, [1])[:0].shape == cache.held(keys_of([]), [0]).shape


def test_a_miss_names_every_missing_sample(cache):
    append(cache, [1])
    with pytest.raises(CacheMiss) as miss:
        cache.read_batch(keys_of([5, 1, 6]), ALL_LAYERS)
    np.testing.assert_array_equal(miss.value.keys, keys_of([5, 6]))


def test_a_record_says_which_numerics_made_it(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [1], [0])
        append(cache, [1], [1], numerics="ort-1.31/exact")
    with open_cache(tmp_path) as cache:
        assert cache.numerics_of(b"\1" * 32) == ("ort-1.31/exact", "test")
        assert cache.numerics_of(b"\2" * 32) == ()


def test_segments_are_limited_in_size(tmp_path):
    with open_cache(tmp_path, segment_bytes=1000) as cache:
        for number in range(20):
            append(cache, [number])
    sizes = [path.stat().st_size for path in tmp_path.glob("*/*.records")]
    assert len(sizes) > 3
    assert max(sizes) < 2000
    with open_cache(tmp_path) as cache:
        assert_reads(cache, list(range(20)))
        assert cache.bytes_used == sum(sizes)
        assert cache.samples == 20


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_the_cache_takes_in_nothing_that_is_not_finite(tmp_path, dtype):
    with open_cache(tmp_path, dtype) as cache:
        encoded = encode(states_of(1), dtype)
        encoded[..., -2:] = np.frombuffer(np.uint16(0x7F80 if dtype != "fp16" else 0x7C00), "u1")
        with pytest.raises(ValueError, match="not a number"):
            cache.append(keys_of([1]), np.array([tokens_of(1)]), ALL_LAYERS, encoded)
        assert not cache.held(keys_of([1]), ALL_LAYERS).any()
        assert cache.bytes_used == 0


def test_a_full_quota_stores_what_fits_and_says_what_did_not(tmp_path):
    with open_cache(tmp_path, quota_bytes=1500) as cache:
        stored = append(cache, list(range(8)))
        assert 0 < stored.sum() < 8
        assert cache.bytes_used <= 1500
        assert not append(cache, [11]).any()
        assert_reads(cache, [int(number) for number in np.flatnonzero(stored)])


def test_clear_leaves_a_usable_empty_cache(cache):
    append(cache, [1])
    cache.clear()
    assert (cache.samples, cache.bytes_used) == (0, 0)
    append(cache, [2])
    assert_reads(cache, [2])


def test_files_are_private(tmp_path):
    root = tmp_path / "caches"
    with open_cache(root) as cache:
        append(cache, [1])
        modes = {path.stat().st_mode & 0o777 for path in cache.folder.iterdir()}
        assert modes == {0o600}
        assert {path.stat().st_mode & 0o777 for path in (root, cache.folder)} == {0o700}


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path):
    first = open_cache(tmp_path)
    with pytest.raises(BadInputError, match="in use by another process"):
        open_cache(tmp_path)
    with open_cache(tmp_path, "fp16"):
        pass
    first.close()
    first.close()
    open_cache(tmp_path).close()


@pytest.mark.parametrize("digest", ["../" + "a" * 61, "", "AB" * 32, "ab" * 32 + "\n"])
def test_a_digest_that_is_none_is_refused(tmp_path, digest):
    with pytest.raises(BadInputError, match="64 hexadecimal"):
        ActivationCache(tmp_path, digest, "fp32", 8, numerics="n")


@pytest.mark.parametrize(
    ("keys", "lengths", "layers", "numerics"),
    [
        (keys_of([1, 2]), [3], [0, 1], "n"),
        (keys_of([1]), [2], [0, 1], "n"),
        (keys_of([1, 2]), [3, 0], [0, 1], "n"),
        (keys_of([1]), [3], [0, 0], "n"),
        (keys_of([1]), [3], [0, -1], "n"),
        (keys_of([1]), [3], [0, 1 << 16], "n"),
        (keys_of([1]), [3], [0, 1], "n" * 65),
        (keys_of([1]).astype(np.int64), [3], [0, 1], "n"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(cache, keys, lengths, layers, numerics):
    encoded = np.zeros((2, 3, cache.row_bytes), np.uint8)
    with pytest.raises(ValueError, match=r"\w"):
        cache.append(keys, np.array(lengths), layers, encoded, numerics)
    assert cache.samples == 0


# ---- damage


def test_a_killed_writer_loses_at_most_the_record_that_it_was_writing(tmp_path):
    ends = []
    with open_cache(tmp_path) as cache:
        for number in (0, 4, 8):
            append(cache, [number])
            ends.append(cache.bytes_used)
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    for size in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:size])
        survivors = [4 * at for at, end in enumerate(ends) if end <= size]
        with open_cache(tmp_path) as cache:
            assert cache.samples == len(survivors)
            assert_reads(cache, survivors)


@pytest.mark.parametrize("lost_bytes", [1, 100, 200, 201])
def test_appending_goes_on_after_a_kill_which_is_said(tmp_path, caplog, lost_bytes):
    with open_cache(tmp_path) as cache:
        append(cache, [0, 4, 8])
    path = only_segment(tmp_path)
    os.truncate(path, path.stat().st_size - lost_bytes)
    assert not caplog.text
    with open_cache(tmp_path) as cache:
        # The last record has 200 bytes: without them, nothing is half-written.
        assert ("ends in a damaged record" in caplog.text) == (lost_bytes != 200)
        append(cache, [12, 3])
    with open_cache(tmp_path) as cache:
        assert_reads(cache, [0, 12, 3])


def test_a_flipped_byte_costs_its_own_record_only(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [0, 4, 8])
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    record_bytes = len(whole) // 3
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        intact = [number for slot, number in enumerate([0, 4, 8]) if slot != at // record_bytes]
        with open_cache(tmp_path) as cache:
            with pytest.raises(CacheMiss) as miss:
                cache.read_batch(keys_of([0, 4, 8]), ALL_LAYERS)
            np.testing.assert_array_equal(miss.value.keys, keys_of([at // record_bytes * 4]))
            assert_reads(cache, intact)


def test_some_layers_of_a_record_do_not_keep_all_of_it_in_memory(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [1])
    with open_cache(tmp_path) as cache:  # reads a record whole the first time, to check it
        for layers in ([1], ALL_LAYERS):
            _, encoded = cache.read_encoded(keys_of([1]), layers)
            assert encoded.base is None or encoded.base.nbytes == encoded.nbytes


def test_a_damaged_record_is_replaced_by_appending_it_again(tmp_path, caplog):
    with open_cache(tmp_path) as cache:
        append(cache, [1, 2])
    path = only_segment(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with open_cache(tmp_path) as cache:
        assert cache.held(keys_of([2]), ALL_LAYERS).all()
        with pytest.raises(CacheMiss):
            cache.read_encoded(keys_of([2]), ALL_LAYERS)
        assert "is damaged" in caplog.text
        assert not cache.held(keys_of([2]), ALL_LAYERS).any()
        append(cache, [2])
        assert_reads(cache, [1, 2])
    with open_cache(tmp_path) as cache:
        assert_reads(cache, [1, 2])


def test_a_record_found_damaged_is_not_offered_again_after_reopening(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [1, 2, 3])
    path = only_segment(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # in the payload of the second of three equal records
    path.write_bytes(damaged)
    with open_cache(tmp_path) as cache, pytest.raises(CacheMiss):
        cache.read_encoded(keys_of([1, 2, 3]), ALL_LAYERS)
    with open_cache(tmp_path) as cache:
        assert cache.held(keys_of([1, 2, 3]), ALL_LAYERS).tolist() == [True, False, True]
        append(cache, [2])
        assert_reads(cache, [1, 2, 3])


def test_records_of_another_hidden_size_are_not_taken(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [1])
        folder = cache.folder
    with ActivationCache(tmp_path, folder.name[:64], "fp32", 16, numerics="n") as cache:
        assert cache.samples == 0
    with open_cache(tmp_path) as cache:
        assert_reads(cache, [1])


def test_random_bytes_are_an_empty_cache(tmp_path):
    with open_cache(tmp_path) as cache:
        append(cache, [1])
    noise = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    only_segment(tmp_path).write_bytes(noise + b"PACREC1\n" * 40)
    with open_cache(tmp_path) as cache:
        assert (cache.samples, cache.bytes_used) == (0, 0)


def test_a_short_write_is_completed(cache, monkeypatch):
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda file, buffers, at: real(file, buffers[:1], at))
    append(cache, [1, 2])
    assert_reads(cache, [1, 2])


def test_a_root_that_cannot_be_used_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot open the activation cache"):
        open_cache(tmp_path / "file")


def test_a_failed_opening_gives_the_lock_back(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with open_cache(tmp_path) as cache:
        append(cache, [1])
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(BadInputError, match="Input/output"):
        open_cache(tmp_path)
    monkeypatch.undo()
    open_cache(tmp_path).close()


WRITER = """
import itertools, sys
from pathlib import Path
from tests.edge_runtime.cache.samples import append, open_cache
cache = open_cache(Path(sys.argv[1]))
for number in itertools.count():
    append(cache, [number % 256])
    if number == 50:
        print("going", flush=True)
    if number % 256 == 255:
        cache.clear()
"""


def test_a_process_killed_while_appending_leaves_a_readable_unlocked_cache(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    repository = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as writer:
        assert writer.stdout.readline() == "going\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=30)
    with open_cache(tmp_path) as cache:
        append(cache, [7])
        held = [number for number in range(256) if cache.held(keys_of([number]), ALL_LAYERS)[0]]
        assert_reads(cache, held)
