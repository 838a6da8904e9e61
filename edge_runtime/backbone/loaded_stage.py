"""A stage in memory, as it was asked for; it may serve several sessions."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import encode
from edge_runtime.contract.manifest import uint8_name
from edge_runtime.inference.paired_files import paired_paths, write_paired
from edge_runtime.inference.session import GraphSession, numerics
from edge_runtime.inference.weight_store import FileStates, WeightStore

from .sample_parts import BackboneSize
from .stage import Stage


def stage_identity(request: m.LoadStage, threads: int) -> object:
    """Makes what is equal for equal stages only: blocks, graphs, weights, layers, dtype, threads.

    The numerics are the process's own.
    """
    digest = hashlib.sha256()
    for frame in encode(request):
        digest.update(frame)
    return digest.hexdigest(), threads


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedStage:
    """Holds the graphs of one ``LoadStage``, and nothing of what they computed."""

    identity: object
    graphs: tuple[GraphSession, ...]
    stages: tuple[Stage, ...]
    size: BackboneSize
    dtype: m.CacheDtype
    files: FileStates

    @classmethod
    def load(
        cls, request: m.LoadStage, store: WeightStore, threads: int, *, spins: bool = False
    ) -> "LoadedStage":
        """Loads a stage whose weight files are in ``store`` already."""
        paths = [write_stage_graph(part, store) for part in request.parts]
        files = [spec for part in request.parts for spec in part.files]
        names = [store.path(spec).name for spec in files]
        weights = [store.folder / name for name in (*names, *map(uint8_name, names))]
        weights += [paired_paths(store, spec)[0] for spec in files]
        return cls.open(request, paths, threads, weights, spins=spins)

    @classmethod
    def open(
        cls,
        request: m.LoadStage,
        graphs: Iterable[Path],
        threads: int,
        weights: Iterable[Path],
        *,
        spins: bool = False,
    ) -> "LoadedStage":
        """Loads a stage from a graph of each of its parts, beside the ``weights`` that they map."""
        loaded = tuple(GraphSession(graph, threads, spins=spins) for graph in graphs)
        return cls(
            identity=stage_identity(request, threads),
            graphs=loaded,
            stages=tuple(
                Stage(graph, part, request.layers)
                for graph, part in zip(loaded, request.parts, strict=True)
            ),
            size=BackboneSize(hidden_size=request.hidden_size, num_heads=request.num_heads),
            dtype=request.dtype,
            files=FileStates.of(weights),
        )

    def is_unchanged(self) -> bool:
        """Tells whether its weight files, which are mapped, are as they were when it was loaded."""
        return self.files.are_the_same()

    def shrink(self) -> None:
        """Gives back the memory of what was computed."""
        for graph in self.graphs:
            graph.shrink()


def write_stage_graph(stage: m.StageFiles, store: WeightStore) -> Path:
    """Stores the form of the stage's graph that nothing saturates on this processor."""
    kernel = numerics().kernel
    if kernel == "fast":
        return store.write_graph(stage.graph.tobytes())
    if kernel == "paired" and stage.products:
        return write_paired(stage, store)
    graph = stage.exact_graph.tobytes()
    for spec in stage.files:
        if uint8_name(store.path(spec).name).encode() in graph:
            store.write_uint8(spec)
    return store.write_graph(graph)
