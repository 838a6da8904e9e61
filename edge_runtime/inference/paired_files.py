"""Weight files with values that no processor saturates, made from those that were sent."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_runtime.contract.checks import Array
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import IntegerProduct, StageFiles

from .paired_weights import limit_pairs
from .weight_store import WeightStore, file_sha256, write_private

PAIRED_FOLDER = "paired"
_DIGEST_SUFFIX = ".sha256"


def write_paired(stage: StageFiles, store: WeightStore) -> Path:
    """Stores the stage's graph beside files of the same names whose weights are limited.

    They are in a folder of their own, so that the graph is the same but for small constants
    inside it. Files without such weights are there as links.
    """
    paired = WeightStore(store.folder / PAIRED_FOLDER)
    sources = [store.path(spec) for spec in stage.files]
    whole = [_is_whole(paired.path(spec)) for spec in stage.files]
    graph = stage.graph.copy()
    for index, spec in enumerate(stage.files):
        changed = [
            product
            for product in stage.products
            if index in (product.weight_file, product.scale_file)
        ]
        if not changed:
            _link(sources[index], paired.path(spec))
        elif not whole[index]:
            _write_limited(index, sources, stage.graph, changed, paired.path(spec))
    in_graph = [
        product for product in stage.products if -1 in (product.weight_file, product.scale_file)
    ]
    _limit(-1, graph, sources, stage.graph, in_graph)
    return paired.write_graph(graph.tobytes())


def paired_paths(store: WeightStore, spec: FileSpec) -> tuple[Path, Path]:
    """What :func:`write_paired` may have made of a file: it, and the file with its digest."""
    path = store.folder / PAIRED_FOLDER / store.path(spec).name
    return path, _digest_path(path)


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + _DIGEST_SUFFIX)


def _is_whole(target: Path) -> bool:
    digest = _digest_path(target)
    if not target.is_file() or not digest.is_file():
        return False
    return digest.read_text("utf-8") == file_sha256(target)


def _write_limited(
    index: int,
    sources: Sequence[Path],
    graph: Array,
    products: Sequence[IntegerProduct],
    target: Path,
) -> None:
    content = np.fromfile(sources[index], np.uint8)
    _limit(index, content, sources, graph, products)
    data = content.tobytes()
    write_private(target, [data])
    write_private(_digest_path(target), [hashlib.sha256(data).hexdigest().encode()])


def _limit(
    index: int,
    content: Array,
    sources: Sequence[Path],
    graph: Array,
    products: Sequence[IntegerProduct],
) -> None:
    """Replaces in ``content``, of file ``index``, what of the products is there."""
    for product in products:
        places = (
            (product.weight_file, product.weight_at, product.inputs * product.outputs),
            (product.scale_file, product.scale_at, 4 * product.outputs),
        )
        weight, scale = (_read(sources, graph, *place) for place in places)
        limited = limit_pairs(
            weight.view(np.int8).reshape(product.inputs, product.outputs), scale.view(np.float32)
        )
        for (file, offset, size), made in zip(places, limited, strict=True):
            if file == index:
                content[offset : offset + size] = np.frombuffer(made.tobytes(), np.uint8)


def _read(sources: Sequence[Path], graph: Array, file: int, offset: int, size: int) -> Array:
    found: Array
    if file < 0:
        found = graph[offset : offset + size].copy()
    else:
        found = np.fromfile(sources[file], np.uint8, count=size, offset=offset)
    return found


def _link(source: Path, target: Path) -> None:
    if target.is_file() and target.samefile(source):
        return
    fresh = target.with_name(target.name + ".part")
    fresh.unlink(missing_ok=True)
    try:
        fresh.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, fresh)
    fresh.replace(target)
