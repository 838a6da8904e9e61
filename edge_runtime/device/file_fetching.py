"""Fetches the weight files that a request needs before its job is queued."""

import collections
import dataclasses
from collections.abc import Sequence

from edge_runtime.contract.errors import RemoteError, UserError
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import FileChunk
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.inference.weight_store import FileFetch, WeightStore
from edge_runtime.messaging.failures import explain
from edge_runtime.messaging.outbox import Outbox
from edge_runtime.messaging.tagging import current_tag, tagged

from .compute_thread import Job, Worker


@dataclasses.dataclass(frozen=True, slots=True)
class _Waiting:
    tag: Tag
    files: Sequence[FileSpec]
    then: Job


class FileFetching:
    """Fetches for one job after another. I/O thread only.

    Attributes:
        received_bytes: of weight files, in this session.
    """

    def __init__(self, store: WeightStore, outbox: Outbox, worker: Worker) -> None:
        self._store, self._outbox, self._worker = store, outbox, worker
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._fetch: FileFetch | None = None
        self._given_up: set[tuple[str, int]] = set()
        self._asked: set[tuple[str, int]] = set()
        self.received_bytes = 0

    def begin(self, files: Sequence[FileSpec], then: Job) -> None:
        """Queues the job ``then`` once all files are in the store."""
        self._waiting.append(_Waiting(current_tag(), files, then))
        if self._fetch is None:
            self._go_on()

    def begin_term(self, term: int) -> None:
        """Gives up what jobs of earlier terms wait for."""
        first = self._waiting[0] if self._waiting else None
        kept = [each for each in self._waiting if each.tag.term in (0, term)]
        self._waiting = collections.deque(kept)
        if first is not None and first not in kept:
            self._give_up()
            self._go_on()

    def receive(self, chunk: FileChunk) -> None:
        """Takes a part of a file in; if it is none, the request that needs the file fails.

        Raises:
            RemoteError: nobody asked for it.
        """
        key = (chunk.sha256, chunk.offset)
        if key in self._asked and self._fetch is not None:
            self._asked.discard(key)
            self._go_on(chunk)
        elif key in self._given_up:
            self._given_up.discard(key)
        else:
            raise RemoteError("a file chunk came that was not asked for")

    def _go_on(self, chunk: FileChunk | None = None) -> None:
        while self._waiting:
            with tagged(self._waiting[0].tag):
                try:
                    if not self._is_done(self._waiting[0], chunk):
                        return
                except (RemoteError, UserError, OSError) as error:
                    self._outbox.to_coordinator(explain(error))
            chunk = None
            self._give_up()
            self._waiting.popleft()

    def _is_done(self, first: _Waiting, chunk: FileChunk | None) -> bool:
        """Asks for what is missing; queues the job once nothing is."""
        if self._fetch is None:
            self._fetch = FileFetch(self._store, first.files)
        elif chunk is not None:
            self._fetch.receive(chunk)
        for request in self._fetch.requests():
            self._asked.add((request.sha256, request.offset))
            self._outbox.to_coordinator(request)
        if self._fetch.done:
            self.received_bytes += self._fetch.received_bytes
            self._worker.submit(first.then)
        return self._fetch.done

    def _give_up(self) -> None:
        if self._fetch is not None:
            self._fetch.close()
        self._given_up |= self._asked
        self._asked.clear()
        self._fetch = None
