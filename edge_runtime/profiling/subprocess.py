"""Measures this device in a subprocess; also the subprocess's own program.

PyTorch and the blocks that are timed leave a hundred megabytes and more behind, which a
device that then owns no samples, or runs no stage, would hold to the end of the session.
A process that ends gives everything back.

The request comes on standard input and the profile goes to standard output, as the frames
of :mod:`.contract.codec` in one msgpack array. Standard input stays open for as long as the
device lives: when it closes before the end, the subprocess ends too.
"""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec

from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import PacplusError, RemoteError, UnresumableError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Failed, Message, ProfileDone, ProfileRequest
from edge_runtime.contract.profile import DeviceProfile, Role
from edge_runtime.inference.session import keep_choice_in
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.messaging.failures import explain
from edge_runtime.system.deferred_imports import defer_compiler_of_pytorch
from edge_runtime.system.usage import resident_bytes
from edge_runtime.transport import home_directory

from .profiler import measure

logger = logging.getLogger(__name__)

LENGTH_BYTES = 8
MODULE = "edge_runtime.profiling.subprocess"


def measure_in_subprocess(
    request: ProfileRequest,
    *,
    device: DeviceId,
    roles: tuple[Role, ...],
    threads: int,
    home: Path,
) -> DeviceProfile:
    """Calls :func:`.profiler.measure` in a subprocess; ``base_memory_bytes`` is this process's.

    Where memory does not suffice for two processes, this one measures after all.

    Raises:
        RemoteError: the subprocess could not measure.
        UnresumableError: it never will.
        RuntimeError: it met a bug; its error is in this process's log.
    """
    command = [sys.executable, "-m", MODULE, device, str(home), str(threads), *roles]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin, request)
            answer = _read(process.stdout)
        except (OSError, EOFError):
            answer = None
        except BaseException:
            process.kill()
            raise
    if isinstance(answer, ProfileDone):
        return dataclasses.replace(answer.profile, base_memory_bytes=resident_bytes())
    if isinstance(answer, Failed):
        kind = RemoteError if answer.resumable else UnresumableError
        raise kind(f"measuring this device failed: {answer.reason}")
    if process.returncode == -signal.SIGKILL:
        logger.warning("measuring was killed, probably for want of memory; measured again in less")
        store = WeightStore(home / "weights")
        return measure(request, device=device, roles=roles, threads=threads, store=store, home=home)
    status = process.returncode
    raise RuntimeError(f"measuring this device failed with status {status}; see its log")


def _write(stream: IO[bytes], message: Message) -> None:
    packed = msgspec.msgpack.encode(encode(message))
    stream.write(len(packed).to_bytes(LENGTH_BYTES, "big") + packed)
    stream.flush()


def _read(stream: IO[bytes]) -> Message:
    """The next message.

    Raises:
        EOFError: the stream ended before it did.
        DecodeError: it is none.
    """
    size = int.from_bytes(_exactly(stream, LENGTH_BYTES), "big")
    frames = msgspec.msgpack.decode(_exactly(stream, size), type=list[bytes])
    return decode([memoryview(frame) for frame in frames])


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main(arguments: list[str]) -> int:
    """Runs the subprocess: one request in, one profile out."""
    device, home, threads, *roles = arguments
    logging.basicConfig(level=logging.WARNING)
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    keep_choice_in(home_directory)
    defer_compiler_of_pytorch()
    sys.stdout = sys.stderr  # prints of libraries must not be taken for the answer
    request = _read(stdin)
    if not isinstance(request, ProfileRequest):
        return 1
    threading.Thread(target=_exit_when_closed, args=(stdin.fileno(),), daemon=True).start()
    answer: Message
    try:
        profile = measure(
            request,
            device=DeviceId(device),
            roles=tuple(role for role in ("backbone", "trainer") if role in roles),
            threads=int(threads),
            store=WeightStore(Path(home) / "weights"),
            home=Path(home),
        )
        answer = ProfileDone(profile=profile)
    except (PacplusError, OSError) as error:
        answer = explain(error)
        if answer.internal:
            raise
    _write(stdout, answer)
    return 0


def _exit_when_closed(descriptor: int) -> None:
    """Ends this process when the device, which holds the other end, is gone."""
    os.read(descriptor, 1)  # the stream's own lock must not be held when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
