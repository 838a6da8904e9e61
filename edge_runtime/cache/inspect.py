"""Lists and removes the caches of a device, for ``pacplus-device cache``."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.contract.errors import BadInputError

from .folder_names import FOLDER_NAME
from .plain_format import PlainFormat
from .segments import bytes_within, last_used_seconds, remove_folder, segment_files
from .streams import count_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDescription:
    """One cache on this device, last opened ``last_used_seconds`` after the epoch.

    ``samples`` is ``None`` where it is encrypted: to count them takes the key.
    """

    backbone_digest: str
    dtype: str
    encrypted: bool
    samples: int | None
    bytes: int
    last_used_seconds: float


def describe(root: Path) -> list[CacheDescription]:
    """Every cache under ``root``, last used first. Reads only; a cache may be in use.

    Raises:
        BadInputError: a file cannot be read.
    """
    try:
        found = [_describe(*entry) for entry in folders(root)]
    except OSError as error:
        raise BadInputError(f"cannot read the activation caches in {root}: {error}") from error
    return sorted(found, key=lambda one: one.last_used_seconds, reverse=True)


def remove(root: Path, digest: str) -> int:
    """Removes the caches of one backbone, every dtype.

    Args:
        root: folder of all caches.
        digest: the backbone's digest, or so much of its beginning that it is the only one.

    Returns:
        Bytes freed.

    Raises:
        BadInputError: no such cache, several that begin so, or one in use.
    """
    begin_so = [(path, found) for path, found, *_ in folders(root) if found.startswith(digest)]
    backbones = {found for _, found in begin_so}
    if not digest or len(backbones) != 1:
        raise BadInputError(
            f"{len(backbones)} backbones under {root} have a digest that begins with {digest!r}; "
            "pacplus-device cache lists them"
        )
    try:
        return sum(remove_folder(path) for path, _ in begin_so)
    except OSError as error:
        raise BadInputError(f"cannot remove an activation cache in {root}: {error}") from error


def folders(root: Path) -> Iterator[tuple[Path, str, str, bool]]:
    """Yields folder, backbone digest, dtype and whether it is encrypted, of each cache."""
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        match = FOLDER_NAME.fullmatch(path.name)
        if match and path.is_dir():
            yield path, match[1], match[2], bool(match[3])


def _describe(folder: Path, backbone_digest: str, dtype: str, encrypted: bool) -> CacheDescription:
    keys: set[bytes] = set()
    for number, path in segment_files(folder):
        if encrypted:
            break
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            keys.update(key for key, _ in PlainFormat().scan(number, file.fileno(), size))
    return CacheDescription(
        backbone_digest=backbone_digest,
        dtype=dtype,
        encrypted=encrypted,
        samples=None if encrypted else count_samples(keys),
        bytes=bytes_within(folder),
        last_used_seconds=last_used_seconds(folder),
    )
