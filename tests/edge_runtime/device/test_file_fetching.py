"""Files are fetched for one request after the other; a term's end gives up what it asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import Failed, FileChunk, FileRequest, Message
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.device.file_fetching import FileFetching
from edge_runtime.inference.weight_store import CHUNK_BYTES, WeightStore
from edge_runtime.messaging.tagging import current_tag, tagged

ONE, TWO = bytes(CHUNK_BYTES + 5), b"two"


class Side:
    """A device's outbox and its worker, which does nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[Tag, Message]] = []
        self.jobs: list[tuple[Tag, str]] = []

    def to_coordinator(self, message: Message) -> None:
        self.sent.append((current_tag(), message))

    def submit(self, job) -> None:
        self.jobs.append((current_tag(), job))


def spec(content: bytes) -> FileSpec:
    sha256 = Sha256(hashlib.sha256(content).hexdigest())
    return FileSpec(path=f"{sha256[:8]}.bin", bytes=len(content), sha256=sha256)


@pytest.fixture
def side() -> Side:
    return Side()


@pytest.fixture
def files(side: Side, tmp_path: Path) -> FileFetching:
    return FileFetching(WeightStore(tmp_path / "weights"), side, side)  # type: ignore[arg-type]


def begin(files: FileFetching, content: bytes, job: str, **belongs) -> Tag:
    tag = Tag(session="s", **belongs)
    with tagged(tag):
        files.begin((spec(content),), job)  # type: ignore[arg-type]
    return tag


def serve(files: FileFetching, side: Side) -> None:
    """Answers all requests so far, under tags that mean nothing."""
    asked, side.sent = side.sent, []
    contents = {spec(content).sha256: content for content in (ONE, TWO)}
    for _, request in asked:
        assert isinstance(request, FileRequest)
        data = np.frombuffer(contents[request.sha256], np.uint8)[request.offset :][: request.length]
        files.receive(FileChunk(sha256=request.sha256, offset=request.offset, data=data))


def test_jobs_and_requests_bear_the_tag_of_what_was_asked(files: FileFetching, side: Side) -> None:
    one = begin(files, ONE, "first", term=1, reply=4)
    two = begin(files, TWO, "second", term=1, reply=5)
    assert {tag for tag, _ in side.sent} == {one}
    serve(files, side)
    assert side.jobs == [(one, "first")]
    assert {tag for tag, _ in side.sent} == {two}
    serve(files, side)
    assert side.jobs == [(one, "first"), (two, "second")]
    assert files.received_bytes == len(ONE) + len(TWO)


def test_a_new_term_gives_up_what_jobs_of_the_old_one_wait_for(
    files: FileFetching, side: Side
) -> None:
    begin(files, ONE, "old", term=1, reply=4)
    begin(files, ONE, "old too", term=1, reply=5)
    late, side.sent = side.sent, []
    files.begin_term(2)
    new = begin(files, TWO, "new", term=2, reply=6)
    asked, side.sent = side.sent, late
    serve(files, side)  # late chunks are no fault of anybody
    side.sent = asked
    serve(files, side)
    assert side.jobs == [(new, "new")]


def test_a_job_of_no_term_is_fetched_for_across_terms(files: FileFetching, side: Side) -> None:
    tag = begin(files, ONE, "profile", reply=4)
    files.begin_term(2)
    serve(files, side)
    assert side.jobs == [(tag, "profile")]


def test_a_file_that_is_not_what_was_announced_fails_its_request_and_the_next_goes_on(
    files: FileFetching, side: Side
) -> None:
    one = begin(files, TWO, "first", term=1, reply=4)
    two = begin(files, ONE, "second", term=1, reply=5)
    wrong = FileChunk(sha256=spec(TWO).sha256, offset=0, data=np.frombuffer(b"owt", np.uint8))
    side.sent.clear()
    files.receive(wrong)
    (tag, failed), *rest = side.sent
    assert isinstance(failed, Failed)
    assert tag == one
    side.sent = rest
    serve(files, side)
    assert side.jobs == [(two, "second")]


def test_a_chunk_that_nobody_asked_for_is_refused(files: FileFetching) -> None:
    with pytest.raises(RemoteError, match="not asked for"):
        files.receive(FileChunk(sha256=spec(TWO).sha256, offset=0, data=np.zeros(1, np.uint8)))
