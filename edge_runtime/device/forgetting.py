"""Deletes what this device keeps of a backbone, or everything: ``Forget``.

Files are unlinked, not overwritten. On flash, in a journal or in a snapshot, overwriting leaves
the old bytes where they are; encrypted caches lose their key with everything else.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_runtime.cache.inspect import folders
from edge_runtime.cache.keys import CacheKeys
from edge_runtime.cache.segments import remove_folder
from edge_runtime.contract.errors import UserError
from edge_runtime.contract.manifest import uint8_name
from edge_runtime.contract.messages import Forget, Forgotten
from edge_runtime.contract.text import one_line
from edge_runtime.inference.paired_files import PAIRED_FOLDER, paired_paths
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.profiling.data_handling import TEMPORARY_PREFIX

logger = logging.getLogger(__name__)


def forget(home: Path, request: Forget, keys: CacheKeys) -> Forgotten:
    """Deletes what ``request`` names in a device's home, and as much as can be of it.

    Args:
        home: of the device.
        request: what is to be deleted.
        keys: of the device's caches; deleted with everything.
    """
    deletions = _Deletions(home)
    root = home / "cache"
    for folder, digest, *_ in folders(root):
        if request.everything or digest == request.backbone_digest:
            deletions.carry_out(remove_folder, folder)
    for path in list(_weight_files(home / "weights", request)):
        deletions.carry_out(_remove_file, path)
    if request.everything:
        paired = home / "weights" / PAIRED_FOLDER
        if paired.is_dir():
            deletions.carry_out(_remove_tree, paired)
        for folder in home.glob(f"{TEMPORARY_PREFIX}*"):  # left by a killed measurement
            deletions.carry_out(_remove_tree, folder)
        if not deletions.refused:  # of a cache that stays, the key is needed
            deletions.carry_out(_remove_keys, keys)
    return Forgotten(bytes=deletions.freed_bytes, refused=deletions.refused)


class _Deletions:
    """Adds up what is freed, and keeps the first refusal."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.freed_bytes, self.refused = 0, ""

    def carry_out(self, delete: Callable[..., int], what: object) -> None:
        try:
            self.freed_bytes += delete(what)
        except (UserError, OSError) as error:
            logger.info("%s cannot be deleted: %s", what, error)
            self.refused = self.refused or one_line(str(error).replace(f"{self._home}/", ""))


def _weight_files(folder: Path, request: Forget) -> Iterator[Path]:
    """The files of a request, what was made from them, and the graphs that refer to them."""
    if not folder.is_dir():
        return
    if request.everything:
        yield from (path for path in folder.iterdir() if path.is_file())
        return
    store = WeightStore(folder)
    for path in (path for spec in request.files for path in paired_paths(store, spec)):
        if path.is_file():
            yield path
    named = [store.path(spec).name for spec in request.files]
    named += [uint8_name(name) for name in named]
    for name in (*named, *(f"{name}.part" for name in named)):
        if (path := folder / name).is_file():
            yield path
    wanted = [name.encode() for name in named]
    for graph in folder.rglob("stage-*.onnx"):
        content = graph.read_bytes()
        if any(name in content for name in wanted):
            yield graph


def _remove_file(path: Path) -> int:
    size = path.stat().st_size
    path.unlink()
    return size


def _remove_tree(folder: Path) -> int:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return size


def _remove_keys(keys: CacheKeys) -> int:
    keys.forget()
    return 0
