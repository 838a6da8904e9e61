"""Encrypted caches: what is on the disk, and what changing it brings."""

import builtins
import os

import numpy as np
import pytest

from edge_runtime.cache.inspect import describe, remove
from edge_runtime.cache.sealed_format import SealedFormat
from edge_runtime.cache.store import CacheMiss
from edge_runtime.contract.errors import BadInputError, MissingExtraError
from tests.edge_runtime.cache.samples import (
    ALL_LAYERS,
    DIGEST,
    append,
    assert_reads,
    keys_of,
    open_cache,
    states_of,
)

KEY = bytes(range(32))
PREAMBLE = SealedFormat.preamble_bytes


def sealed(root, key=KEY, **options):
    return open_cache(root, key=key, **options)


def segments(root):
    return sorted(root.glob("*/*.records"))


def stored_bytes(root):
    return b"".join(path.read_bytes() for path in segments(root))


@pytest.fixture
def three(tmp_path):
    """A cache of three records of equal size; yields its folder's root and the segment."""
    with sealed(tmp_path) as cache:
        append(cache, [0, 4, 8])
    (path,) = segments(tmp_path)
    return tmp_path, path


@pytest.mark.parametrize("key", [None, KEY])
def test_states_and_keys_of_texts_are_on_the_disk_only_without_encryption(tmp_path, key):
    with open_cache(tmp_path, key=key) as cache:
        append(cache, [1, 2])
        assert_reads(cache, [2, 1])
    found = stored_bytes(tmp_path)
    for number in (1, 2):
        for secret in (keys_of([number]).tobytes(), states_of(number)[1].tobytes(), b"test"):
            assert (secret in found) == (key is None)


def test_what_was_encrypted_is_read_again_after_opening(tmp_path):
    with sealed(tmp_path) as cache:
        append(cache, [1, 2], [0, 1])
        append(cache, [2, 3], [2, 3], numerics="other")
    with sealed(tmp_path) as cache:
        append(cache, [1, 3])
        assert_reads(cache, [3, 1, 2])
        assert_reads(cache, [2], [3, 1])
        assert cache.numerics_of(b"\2" * 32) == ("other", "test")


def test_one_layer_is_read_without_the_others(three):
    root, path = three
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1  # the last layer's tag
    path.write_bytes(damaged)
    with sealed(root) as cache:
        assert_reads(cache, [0, 4, 8], [0, 1, 2])
        with pytest.raises(CacheMiss):
            cache.read_batch(keys_of([8]), [3])


def test_a_changed_byte_anywhere_costs_its_own_record_only_and_is_said(three, caplog):
    root, path = three
    whole = path.read_bytes()
    record_bytes = (len(whole) - PREAMBLE) // 3
    for at in range(PREAMBLE, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        slot = (at - PREAMBLE) // record_bytes
        caplog.clear()
        with sealed(root) as cache:
            with pytest.raises(CacheMiss) as miss:
                cache.read_batch(keys_of([0, 4, 8]), ALL_LAYERS)
            np.testing.assert_array_equal(miss.value.keys, keys_of([4 * slot]))
            assert_reads(cache, [4 * n for n in range(3) if n != slot])
            assert [r.message for r in caplog.records if "damaged" in r.message]


def test_a_file_cut_off_at_any_byte_keeps_its_whole_records(three):
    root, path = three
    whole = path.read_bytes()
    record_bytes = (len(whole) - PREAMBLE) // 3
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        survivors = [4 * n for n in range(3) if PREAMBLE + (n + 1) * record_bytes <= size]
        with sealed(root) as cache:
            assert cache.samples == len(survivors)
            append(cache, [12])
            assert_reads(cache, [*survivors, 12])
        for other in segments(root):
            other.unlink()


@pytest.mark.parametrize("part", ["records", "payloads", "another segment's record"])
def test_records_that_were_exchanged_are_not_held_and_it_is_said(tmp_path, caplog, part):
    with sealed(tmp_path, segment_bytes=500) as cache:
        append(cache, [0, 4])
        append(cache, [8, 12])
    first, second = segments(tmp_path)
    data, other = bytearray(first.read_bytes()), second.read_bytes()
    record_bytes = (len(data) - PREAMBLE) // 2
    a, b = slice(PREAMBLE, PREAMBLE + record_bytes), slice(PREAMBLE + record_bytes, None)
    if part == "records":
        data[a], data[b] = data[b], data[a]
    elif part == "payloads":
        size = 4 * (32 + 16)
        a, b = slice(a.stop - size, a.stop), slice(len(data) - size, None)
        data[a], data[b] = data[b], data[a]
    else:
        data[a], data[b] = other[a], other[b]
    first.write_bytes(data)
    with sealed(tmp_path) as cache:
        with pytest.raises(CacheMiss):
            cache.read_batch(keys_of([0]), ALL_LAYERS)
        with pytest.raises(CacheMiss):
            cache.read_batch(keys_of([4]), ALL_LAYERS)
        assert_reads(cache, [8, 12])
    assert "a record of the activation cache is damaged" in caplog.text
    caplog.clear()
    sealed(tmp_path).close()
    assert "damaged" not in caplog.text  # said once


def test_no_nonce_is_used_twice_not_even_after_a_kill_or_a_failed_write(tmp_path, monkeypatch):
    used = []
    real = SealedFormat.buffers

    def watch(self, key, record, payload):
        made = real(self, key, record, payload)
        used.append(record.seal[:12])
        return made

    monkeypatch.setattr(SealedFormat, "buffers", watch)
    for number in range(20):
        with sealed(tmp_path) as cache:
            with monkeypatch.context() as broken:
                broken.setattr(os, "pwritev", refuse)
                assert not append(cache, [number]).any()
            append(cache, [number])
        (path,) = segments(tmp_path)
        os.truncate(path, path.stat().st_size - 1)  # as a kill would: written there again
    assert len(used) == 39  # the first refusal came before a record was made
    assert len(set(used)) == 39


def refuse(*_):
    raise OSError(28, "No space left on device")


def test_two_layers_of_a_record_never_share_a_nonce(tmp_path):
    same = np.ones((2, 1, 32), np.uint8)
    with sealed(tmp_path) as cache:
        cache.append(keys_of([1]), np.array([1]), [0, 1], same)
    payload = stored_bytes(tmp_path)[-2 * (32 + 16) :]
    assert payload[:32] != payload[48:80]


def test_segments_have_keys_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_runtime.cache.sealed_format.secrets", Repeating())
    for home in ("a", "b"):
        with sealed(tmp_path / home) as cache:
            append(cache, [1])
    a, b = stored_bytes(tmp_path / "a"), stored_bytes(tmp_path / "b")
    assert a[-200:] != b[-200:]


class Repeating:
    """Nonces that repeat, salts that do not: only the salts keep the ciphertexts apart."""

    @staticmethod
    def token_bytes(size):
        return os.urandom(size) if size == 32 else bytes(size)


def test_another_key_is_said_in_one_line_and_destroys_nothing(three):
    root, path = three
    before = path.read_bytes()
    with pytest.raises(BadInputError, match="encrypted with another key or passphrase") as error:
        sealed(root, bytes(32))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    with sealed(root) as cache:
        assert_reads(cache, [0, 4, 8])


def test_a_file_whose_beginning_is_damaged_is_made_again_and_it_is_said(tmp_path, caplog):
    with sealed(tmp_path, segment_bytes=500) as cache:
        append(cache, [0])
        append(cache, [4, 8])
        append(cache, [12])
    first, *_ = segments(tmp_path)
    first.write_bytes(b"PACREC1\n" * 100)  # plain records, planted
    with sealed(tmp_path) as cache:
        assert cache.held(keys_of([0, 12]), ALL_LAYERS).tolist() == [False, True]
        append(cache, [0])
        assert_reads(cache, [0, 12])
    assert "a file of the activation cache is damaged" in caplog.text


def test_plain_and_encrypted_caches_are_apart(tmp_path):
    with open_cache(tmp_path) as plain, sealed(tmp_path) as cache:
        append(plain, [1])
        append(cache, [2])
        assert not cache.held(keys_of([1]), [0]).any()
        assert not plain.held(keys_of([2]), [0]).any()
    listed = {one.encrypted: one.samples for one in describe(tmp_path)}
    assert listed == {False: 1, True: None}
    assert remove(tmp_path, DIGEST) > 0
    assert not segments(tmp_path)


def test_an_encrypted_segment_in_a_plain_cache_is_refused(three):
    root, path = three
    path.parent.rename(root / f"{DIGEST}-fp32")
    with pytest.raises(BadInputError, match="encrypted with another key"):
        open_cache(root)


def test_the_quota_counts_what_encryption_adds(tmp_path):
    with sealed(tmp_path, quota_bytes=1500) as cache:
        stored = append(cache, list(range(8)))
        assert 0 < stored.sum() < 8
        assert cache.bytes_used == len(stored_bytes(tmp_path)) <= 1500


def test_a_missing_library_is_said_with_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'pacplus\[encrypt\]'"):
        sealed(tmp_path)
    open_cache(tmp_path).close()
