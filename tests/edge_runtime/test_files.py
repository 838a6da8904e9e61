import hashlib
import stat
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import FileChunk, FileRequest
from edge_runtime.files import CHUNK_BYTES, CHUNKS_IN_FLIGHT, FileFetch, WeightStore


def content(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def spec_of(data: bytes, path: str = "weights/a.bin") -> FileSpec:
    return FileSpec(path=path, bytes=len(data), sha256=Sha256(hashlib.sha256(data).hexdigest()))


def chunk(request: FileRequest, data: bytes) -> FileChunk:
    part = data[request.offset : request.offset + request.length]
    return FileChunk(
        sha256=request.sha256, offset=request.offset, data=np.frombuffer(part, np.uint8)
    )


def fetch_all(fetch: FileFetch, *files: bytes) -> int:
    """Answers every request in order; returns the most chunks that were ever in flight."""
    by_digest = {hashlib.sha256(data).hexdigest(): data for data in files}
    asked = list(fetch.requests())
    most = len(asked)
    while not fetch.done:
        request = asked.pop(0)
        fetch.receive(chunk(request, by_digest[request.sha256]))
        asked += fetch.requests()
        most = max(most, len(asked))
    assert not asked
    return most


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path / "weights")


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, 6 * CHUNK_BYTES + 5])
def test_a_file_arrives_whole_and_private_with_few_chunks_in_flight(store, size):
    data = content(size)
    spec = spec_of(data)
    fetch = FileFetch(store, [spec])
    assert not fetch.done
    assert fetch_all(fetch, data) == min(CHUNKS_IN_FLIGHT, -(-size // CHUNK_BYTES))
    assert store.path(spec).read_bytes() == data
    assert stat.S_IMODE(store.path(spec).stat().st_mode) == 0o600
    assert fetch.received_bytes == size
    assert store.has(spec)
    assert [path.name for path in store.folder.iterdir()] == ["a.bin"]


def test_several_files_come_one_after_the_other(store):
    first, second = content(10, 1), content(2 * CHUNK_BYTES, 2)
    specs = [spec_of(first, "weights/a.bin"), spec_of(second, "weights/b.bin")]
    fetch = FileFetch(store, specs)
    fetch_all(fetch, first, second)
    assert [store.path(spec).read_bytes() for spec in specs] == [first, second]


def test_two_names_of_one_content_are_two_files(store):
    data = content(9)
    specs = [spec_of(data, "weights/a.bin"), spec_of(data, "weights/b.bin")]
    fetch_all(FileFetch(store, specs), data)
    assert all(store.has(spec) for spec in specs)


def test_what_is_there_already_is_not_asked_for(store):
    data = content(9)
    fetch_all(FileFetch(store, [spec_of(data)]), data)
    again = FileFetch(store, [spec_of(data), spec_of(data)])
    assert again.done
    assert again.requests() == []
    assert again.received_bytes == 0


def test_an_empty_file_needs_no_chunk(store):
    fetch = FileFetch(store, [spec_of(b"")])
    assert fetch.done
    assert store.path(spec_of(b"")).read_bytes() == b""


def test_an_empty_file_among_others_holds_nothing_up(store):
    data = content(9)
    fetch = FileFetch(store, [spec_of(b"", "weights/e.bin"), spec_of(data)])
    fetch_all(fetch, data)
    assert fetch.done


def test_no_files_are_done_at_once(store):
    assert FileFetch(store, []).done


@pytest.mark.parametrize("damage", [b"", b"x" * 9, content(10)], ids=["empty", "flipped", "long"])
def test_a_damaged_file_is_fetched_again(store, damage):
    data = content(9)
    spec = spec_of(data)
    store.path(spec).write_bytes(damage)
    assert not store.has(spec)
    fetch_all(FileFetch(store, [spec]), data)
    assert store.path(spec).read_bytes() == data


def test_content_with_a_wrong_digest_is_refused_and_removed(store):
    data = content(9)
    fetch = FileFetch(store, [spec_of(data)])
    (request,) = fetch.requests()
    with pytest.raises(RemoteError, match="wrong sha256"):
        fetch.receive(chunk(request, content(9, seed=1)))
    assert not fetch.done
    assert list(store.folder.iterdir()) == []
    fetch_all(fetch, data)
    assert store.has(spec_of(data))


@pytest.mark.parametrize(
    ("sha256", "offset", "size"),
    [("0" * 64, 0, 9), (None, 1, 9), (None, 0, 0), (None, 0, 10)],
    ids=["another file", "another place", "empty", "beyond the end"],
)
def test_a_chunk_that_was_not_asked_for_is_refused(store, sha256, offset, size):
    data = content(9)
    fetch = FileFetch(store, [spec_of(data)])
    asked = fetch.requests()
    bad = FileChunk(
        sha256=Sha256(sha256 or spec_of(data).sha256), offset=offset, data=np.zeros(size, np.uint8)
    )
    with pytest.raises(RemoteError):
        fetch.receive(bad)
    fetch.receive(chunk(asked[0], data))
    assert fetch.done


def test_a_chunk_before_any_request_and_a_chunk_twice_are_refused(store):
    data = content(CHUNK_BYTES + 1)
    fetch = FileFetch(store, [spec_of(data)])
    early = FileRequest(sha256=spec_of(data).sha256, offset=0, length=9)
    with pytest.raises(RemoteError, match="not asked for"):
        fetch.receive(chunk(early, data))
    first, second = fetch.requests()
    fetch.receive(chunk(first, data))
    with pytest.raises(RemoteError, match="not asked for"):
        fetch.receive(chunk(first, data))
    fetch.receive(chunk(second, data))
    assert fetch.done


def test_a_stage_graph_is_named_by_its_content(store):
    first, again, other = (store.write_graph(data) for data in (b"one", b"one", b"two"))
    assert first == again != other
    assert first.parent == store.folder
    assert first.read_bytes() == b"one"
    assert stat.S_IMODE(first.stat().st_mode) == 0o600


def test_files_of_one_name_but_other_content_do_not_meet(store):
    heads = [spec_of(data, "head.safetensors") for data in (b"one", b"two")]
    assert len({store.path(spec) for spec in heads}) == 2
    for spec in heads:
        assert store.path(spec).suffix == ".safetensors"
        assert spec.sha256[:12] in store.path(spec).name
    fetch = FileFetch(store, heads)
    fetch_all(fetch, b"one", b"two")
    assert [store.path(spec).read_bytes() for spec in heads] == [b"one", b"two"]


def test_int8_weights_are_written_as_uint8_around_128(store):
    values = np.arange(-128, 128, dtype=np.int8).repeat(CHUNK_BYTES // 128)
    spec = spec_of(values.tobytes())
    store.path(spec).write_bytes(values.tobytes())
    store.write_uint8(spec)
    written = store.folder / "a.uint8.bin"
    shifted = np.frombuffer(written.read_bytes(), np.uint8).astype(int) - 128
    np.testing.assert_array_equal(shifted, values)
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [b"", b"\0" * 300])
def test_a_damaged_uint8_file_is_written_again(store, damage):
    data = content(300)
    spec = spec_of(data)
    store.path(spec).write_bytes(data)
    store.write_uint8(spec)
    written = store.folder / "a.uint8.bin"
    whole = written.read_bytes()
    written.write_bytes(damage)
    store.write_uint8(spec)
    assert written.read_bytes() == whole
