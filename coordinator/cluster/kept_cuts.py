"""Keeps the graphs of stages that were cut, in ``$PACPLUS_HOME/cuts``: cutting takes a while.

A file for each stage of each bundle, with both forms of its graph, its products and their digest.
The newest are kept. A file that is damaged or cannot be written costs time only.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_runtime import __version__
from edge_runtime.contract.errors import BadInputError, StorageError
from edge_runtime.contract.ids import Sha256
from edge_runtime.transport.files import read_private, write_private

logger = logging.getLogger(__name__)

FOLDER = "cuts"
MOST_FILES = 64
CUT = 2
"""Raise it when stages of the same blocks become others within a version."""

_DIGEST_BYTES = 32

Forms = tuple[bytes, ...]
"""A stage's graph for processors whose products saturate or not, the exact one, and where the
products' weights lie."""


class KeptCuts:
    """The cut stages of one bundle."""

    def __init__(self, home: Path, bundle_digest: Sha256) -> None:
        """Reads nothing yet."""
        self._folder, self._bundle = home / FOLDER, bundle_digest

    def get(self, first: int, last: int, cut: Callable[[], Forms]) -> Forms:
        """Reads the stage of blocks ``[first, last)``, or has it ``cut`` and keeps it."""
        path = self._path(first, last)
        with contextlib.suppress(FileNotFoundError, BadInputError):
            if (forms := _parse(read_private(path))) is not None:
                with contextlib.suppress(OSError):
                    os.utime(path)
                return forms
        forms = cut()
        try:
            write_private(path, _content(forms))
            self._remove_oldest()
        except (BadInputError, StorageError, OSError) as error:
            logger.debug("a cut stage is not kept: %s", error)
        return forms

    def has_any(self) -> bool:
        """Tells whether stages of the bundle are kept, whichever."""
        return any(self._folder.glob(f"{self._prefix}-*"))

    def _path(self, first: int, last: int) -> Path:
        return self._folder / f"{self._prefix}-{first}-{last}"

    @property
    def _prefix(self) -> str:
        of = f"{self._bundle} {__version__} {CUT}".encode()
        return hashlib.sha256(of).hexdigest()[:16]

    def _remove_oldest(self) -> None:
        files = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_FILES]:
            path.unlink(missing_ok=True)


def _content(forms: Forms) -> bytes:
    body = msgspec.msgpack.encode(forms)
    return hashlib.sha256(body).digest() + body


def _parse(content: bytes) -> Forms | None:
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return None
    return msgspec.msgpack.decode(body, type=Forms)
