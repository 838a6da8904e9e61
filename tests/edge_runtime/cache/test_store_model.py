"""Whatever happens to a cache, it is a dict that may forget."""

import contextlib
import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge_runtime.cache.store import CacheMiss
from tests.edge_runtime.cache.samples import append, assert_reads, keys_of, open_cache

NUMBERS = st.lists(st.integers(0, 12), min_size=1, max_size=4)
LAYERS = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)


@contextlib.contextmanager
def full_after(room):
    """A disk that takes ``room`` more bytes, the last of them of a torn write."""
    real, left = os.pwritev, [room]

    def write(file, buffers, offset):
        whole = b"".join(buffers)
        taken, left[0] = whole[: left[0]], max(0, left[0] - len(whole))
        written = real(file, [taken], offset)
        if written < len(whole):
            left[0] += written  # since it is cut off again
            raise OSError(errno.ENOSPC, "No space left on device")
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", write)
        yield


class CacheMachine(RuleBasedStateMachine):
    """The model: (sample, layer) pairs held, in the order of their records."""

    key: bytes | None = None

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.cache = self.open()
        self.records = []

    def open(self):
        return open_cache(self.root, segment_bytes=3000, key=self.key)

    def held(self):
        return {(number, layer) for number, layers in self.records for layer in layers}

    @rule(numbers=NUMBERS, layers=LAYERS)
    def append_some(self, numbers, layers):
        held = self.held()
        for number in dict.fromkeys(numbers):
            missing = [layer for layer in layers if (number, layer) not in held]
            if missing:
                self.records.append((number, missing))
        assert append(self.cache, numbers, layers).all()

    @rule(numbers=NUMBERS, layers=LAYERS, room=st.integers(0, 900))
    def append_until_the_disk_is_full(self, numbers, layers, room):
        before = self.held()
        with full_after(room):
            kept = append(self.cache, numbers, layers)
        for number in dict.fromkeys(numbers):
            missing = [layer for layer in layers if (number, layer) not in before]
            written = [self.cache.held(keys_of([number]), [layer])[0] for layer in missing]
            assert all(written) or not any(written), "a record is there or it is not"
            if missing and all(written):
                self.records.append((number, missing))
        held = self.held()
        whole = [all((number, layer) in held for layer in layers) for number in numbers]
        assert kept.tolist() == whole
        if kept.any():
            assert_reads(self.cache, [numbers[at] for at in kept.nonzero()[0]], layers)

    @rule(numbers=NUMBERS, layers=LAYERS)
    def read_some(self, numbers, layers):
        held = self.held()
        lacking = [n for n in numbers if any((n, layer) not in held for layer in layers)]
        if lacking:
            with pytest.raises(CacheMiss) as miss:
                self.cache.read_batch(keys_of(numbers), layers)
            assert miss.value.keys.tolist() == keys_of(lacking).tolist()
        else:
            assert_reads(self.cache, numbers, layers)

    @rule()
    def reopen(self):
        self.cache.close()
        self.cache = self.open()

    @rule(lost=st.integers(1, 900))
    def die_while_writing(self, lost):
        self.cache.close()
        paths = sorted(self.root.glob("*/*.records"))
        if paths:
            os.truncate(paths[-1], max(0, paths[-1].stat().st_size - lost))
        self.cache = self.open()
        while self.records and not self.last_record_is_held():
            self.records.pop()

    def last_record_is_held(self):
        number, layers = self.records[-1]
        return self.cache.held(keys_of([number]), layers)[0]

    @rule()
    def clear(self):
        self.cache.clear()
        self.records = []

    @invariant()
    def holds_what_the_model_holds(self):
        held = self.held()
        assert self.cache.samples == len({number for number, _ in held})
        for layer in range(6):
            found = self.cache.held(keys_of(range(13)), [layer])
            assert [(number, layer) in held for number in range(13)] == found.tolist()

    def teardown(self):
        self.cache.close()
        self.folder.cleanup()


class EncryptedCacheMachine(CacheMachine):
    key = bytes(32)


CacheMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True
)
EncryptedCacheMachine.TestCase.settings = settings(CacheMachine.TestCase.settings, max_examples=20)
TestCacheIsADictThatMayForget = CacheMachine.TestCase
TestEncryptedCacheIsADictThatMayForget = EncryptedCacheMachine.TestCase
