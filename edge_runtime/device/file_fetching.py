"""Fetches the weight files that a request needs before its job is queued."""

from collections.abc import Sequence

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import FileChunk
from edge_runtime.inference.weight_store import FileFetch, WeightStore
from edge_runtime.messaging.outbox import Outbox

from .compute_thread import Job, Worker


class FileFetching:
    """Fetches for one job at a time. I/O thread only.

    Attributes:
        received_bytes: of weight files, in this session.
    """

    def __init__(self, store: WeightStore, outbox: Outbox, worker: Worker) -> None:
        self._store, self._outbox, self._worker = store, outbox, worker
        self._waiting: tuple[FileFetch, Job] | None = None
        self.received_bytes = 0

    def begin(self, files: Sequence[FileSpec], then: Job) -> None:
        """Queues the job ``then`` once all files are in the store.

        Raises:
            RemoteError: others are being fetched.
        """
        if self._waiting is not None:
            raise RemoteError("asked for files while others are being fetched")
        self._waiting = FileFetch(self._store, files), then
        self._go_on(*self._waiting)

    def receive(self, chunk: FileChunk) -> None:
        """Takes a part of a file in.

        Raises:
            RemoteError: nobody asked for it, or the file is not what was announced.
        """
        if self._waiting is None:
            raise RemoteError("a file chunk came that was not asked for")
        self._waiting[0].receive(chunk)
        self._go_on(*self._waiting)

    def _go_on(self, fetch: FileFetch, then: Job) -> None:
        if fetch.done:
            self._waiting = None
            self.received_bytes += fetch.received_bytes
            self._worker.submit(then)
        for request in fetch.requests():
            self._outbox.to_coordinator(request)
