"""Reads the pieces of files that devices ask for: weights, the head, adapters, nothing else."""

import logging
from pathlib import Path

import numpy as np

from coordinator.protocol.job import Job
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import FileChunk, FileRequest
from export.partition.stages import Bundle

from .stage_files import StageCutter

logger = logging.getLogger(__name__)

MAX_CHUNK_BYTES = 4 << 20


class FileServer:
    """Serves the files of one session."""

    def __init__(self, bundle: Bundle, cutter: StageCutter, job: Job) -> None:
        self._bundle, self._cutter, self._job = bundle, cutter, job

    def read(self, device: DeviceId, request: FileRequest) -> FileChunk | None:
        """Reads a piece; None, logged, if ``device`` may not have it.

        Raises:
            BadInputError: the file cannot be read, so the device would wait for ever.
        """
        adapter = self._job.adapter_file
        try:
            asked = adapter is not None and adapter.sha256 == request.sha256
            spec = adapter if adapter and asked else self._cutter.file(request.sha256)
        except KeyError:
            logger.warning("%s asked for a file that no device needs", device)
            return None
        if not 0 <= request.offset < spec.bytes or not 0 < request.length <= MAX_CHUNK_BYTES:
            logger.warning("%s asked for a piece outside of %s", device, spec.path)
            return None
        length = min(request.length, spec.bytes - request.offset)
        if spec == adapter:
            data = self._job.adapter_graph[request.offset : request.offset + length]
        else:
            data = self._from_bundle(self._bundle.file_path(spec), request.offset, length)
        array = np.frombuffer(data, np.uint8)
        return FileChunk(sha256=request.sha256, offset=request.offset, data=array)

    def _from_bundle(self, path: Path, offset: int, length: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read ({error.strerror})") from None
        if len(data) < length:
            raise BadInputError(f"{path}: is too short; export the bundle again")
        return data
