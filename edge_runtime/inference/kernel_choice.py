"""Keeps what a device has once chosen by its clock, so that it chooses alike in every run.

A choice decides the last bits of cached states. Near the threshold another run might time
otherwise, and states of both kinds would meet in one cache.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import from_plain, to_plain

logger = logging.getLogger(__name__)

SaturatingKernel = Literal["paired", "exact"]

FILE = "kernel-choice.json"
_CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """What was chosen, and on what it depends.

    Attributes:
        processor: its model, and a digest of what it can do.
        software: that brings the kernels and the probe, with its version.
    """

    format_version: Literal[1] = 1
    processor: str
    software: str
    kernel: SaturatingKernel


def kept_choice(
    folder: Path, software: str, choose: Callable[[], SaturatingKernel]
) -> SaturatingKernel:
    """Returns what was chosen on this processor with this software, or chooses and keeps that.

    Of several processes that choose at a time, the first to write is followed. Where nothing
    can be written, nothing is kept.
    """
    path, processor = folder / FILE, processor_model()

    def kept() -> SaturatingKernel | None:
        found = _read(path)
        same = found and (found.processor, found.software) == (processor, software)
        return found.kernel if found and same else None

    if (known := kept()) is not None:
        return known
    kernel = choose()
    choice = KernelChoice(processor=processor, software=software, kernel=kernel)
    with contextlib.suppress(OSError), _alone(folder):
        if (known := kept()) is not None:
            return known
        path.unlink(missing_ok=True)
        with open(path, "x", encoding="utf-8", opener=_private) as file:
            json.dump(to_plain(choice), file)
    return kernel


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Has other processes wait that would write there, for as long as one file takes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def processor_model() -> str:
    """Names the processor and digests its features, which a virtual machine may hide."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0]
        for line in first.splitlines():
            name, _, value = line.partition(":")
            facts[name.strip()] = value.strip()
    known = [facts[name] for name in _CPU_FACTS if name in facts]
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
    return f"{facts.get('model name') or platform.processor() or platform.machine()}, {digest}"


def _read(path: Path) -> KernelChoice | None:
    try:
        choice: KernelChoice = from_plain(KernelChoice, json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadInputError) as error:
        logger.info("%s is of no use and will be made again: %s", path, error)
        return None
    return choice


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
