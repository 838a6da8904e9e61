"""Opening a bundle, and cutting stages out of it; needs neither torch nor transformers.

A stage is the backward slice from its last hidden state to the one before its first
block. Masks and position tables are recomputed in every stage instead of being sent.

onnx_ir takes half a second to import, so that only cutting does: bundles are opened without.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FileSpec, Manifest, uint8_name

if TYPE_CHECKING:
    import onnx_ir as ir

    from edge_runtime.contract.messages import IntegerProduct

MANIFEST = "manifest.json"
GRAPH = "backbone.onnx"

_READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An exported model on disk whose files have been checked."""

    path: Path
    manifest: Manifest

    @property
    def tokenizer_path(self) -> Path:
        """The ``tokenizer.json``."""
        return self.path / "tokenizer" / "tokenizer.json"

    def file_path(self, file: FileSpec) -> Path:
        """The path of a file of the manifest."""
        return self.path / file.path


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Reads a bundle's manifest and checks its files.

    Args:
        path: the bundle's folder.
        verify: compare every file's SHA-256, too, not just its size.

    Raises:
        BadInputError: no bundle, or a file is missing or damaged; says which.
    """
    if path.exists() and _is_model(path):
        raise BadInputError(
            f"{path}: is a model, not a bundle; make one with: "
            f"pacplus export {shlex.quote(str(path))} -o NEW"
        )
    if path.exists() and not path.is_dir():
        raise BadInputError(f"{path}: is a file, not the folder of a bundle")
    if not path.is_dir():
        raise BadInputError(
            f"{path}: no such bundle; make one with: pacplus export MODEL -o {path}"
        )
    file = path / MANIFEST
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise BadInputError(f"{path}: is no bundle, it has no {MANIFEST}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: cannot be read ({error}); export the model again") from None
    manifest = Manifest.from_json(text, str(file))
    for spec in manifest.files:
        _check_file(path / spec.path, spec, verify)
    return Bundle(path=path, manifest=manifest)


def _is_model(path: Path) -> bool:
    """Tells a GGUF file and a folder that transformers saved, which can be made into a bundle."""
    if path.is_dir():
        return (path / "config.json").is_file() and not (path / MANIFEST).exists()
    return path.suffix == ".gguf"


def _check_file(path: Path, spec: FileSpec, verify: bool) -> None:
    if not path.is_file():
        problem = "is missing from the bundle"
    elif (size := path.stat().st_size) != spec.bytes:
        problem = f"has {size} bytes instead of {spec.bytes}"
    elif verify and sha256_of(path) != spec.sha256:
        problem = "is damaged, its SHA-256 is not the manifest's"
    else:
        return
    raise BadInputError(f"{path}: {problem}; export the model again")


def sha256_of(path: Path) -> Sha256:
    """SHA-256 of a file's contents."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(_READ_BYTES):
            digest.update(part)
    return Sha256(digest.hexdigest())


def file_spec(root: Path, path: str) -> FileSpec:
    """The manifest's entry of a file in the bundle's folder ``root``."""
    file = root / path
    return FileSpec(path=path, bytes=file.stat().st_size, sha256=sha256_of(file))


def import_ahead() -> None:
    """Imports in the background what cutting stages and writing adapters need.

    For when there is something else to wait for.
    """
    threading.Thread(target=_import, name="import-ahead", daemon=True).start()


def _import() -> None:
    with contextlib.suppress(ImportError):  # whoever needs it meets it again, and says so
        importlib.import_module("export.ir.graph")


def cut_stage(bundle: Bundle, first: int, last: int, *, exact: bool = False) -> bytes:
    """Cuts out the blocks ``[first, last)`` as a serialized ONNX model.

    Its outputs are the hidden states ``first`` to ``last - 1``. Its inputs are what its
    blocks need from outside: earlier hidden states (the one before, and an encoder's last),
    tokens for embeddings, masks. Weights are external: ``location`` is a weight file's name
    without its folder, so the graph must lie beside the files of
    ``manifest.weight_files(first, last)``.

    Args:
        bundle: that is cut.
        first: first block.
        last: behind the last block.
        exact: for processors whose uint8 x int8 product saturates: the weights are uint8
            with zero point 128, see :mod:`.exact_form`, in the files that
            :func:`~edge_runtime.contract.manifest.uint8_name` names. Slower.

    Raises:
        ValueError: there are no such blocks.
    """
    import onnx_ir as ir

    from export.ir.exact_form import use_uint8_weights
    from export.ir.graph import external, hidden_name, name_of, serialized, slice_nodes

    blocks = bundle.manifest.blocks
    if not 0 <= first < last <= len(blocks):
        raise ValueError(f"blocks [{first}, {last}) of {len(blocks)}")
    model = _backbone(bundle.path / GRAPH, bundle.manifest.backbone_digest)
    outputs = [hidden_name(block) for block in range(first, last)]
    earlier = [hidden_name(block) for block in range(first)]
    targets = [value for value in model.graph.outputs if value.name in outputs]
    _, reached, _ = slice_nodes(targets, frozenset(earlier))
    names = [*earlier, *(spec.name for spec in bundle.manifest.inputs)]
    inputs = [name for name in names if name in reached]
    graph = ir.convenience.extract(model.graph, inputs=inputs, outputs=outputs)
    graph.name = f"blocks.{first}.{last}"
    _sort_initializers(graph)
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            location = PurePosixPath(value.const_value.location).name
            value.const_value = external(value.const_value, location, name_of(value))
    _remove_types(graph)
    if exact:
        use_uint8_weights(graph, _shift_in_file)
    return serialized(graph, model.ir_version)


def stage_products(stage: bytes, files: Sequence[FileSpec]) -> tuple[IntegerProduct, ...]:
    """Lists a stage's products with int8 weights, see :func:`.products_in_files`."""
    from export.partition.products import products_in_files

    return products_in_files(stage, files)


@functools.lru_cache(maxsize=2)
def _backbone(path: Path, _digest: Sha256) -> ir.Model:
    import onnx_ir as ir

    return ir.load(path)


def _sort_initializers(graph: ir.Graph) -> None:
    """Orders the weights, so that a stage has the same bytes in every process.

    By these a device knows a stage that it has loaded.
    """
    values = sorted(graph.initializers.values(), key=lambda value: value.name or "")
    graph.initializers.clear()
    for value in values:
        graph.register_initializer(value)


def _remove_types(graph: ir.Graph) -> None:
    """Removes the types of all values between the inputs and the outputs.

    From them ONNX Runtime plans which value re-uses whose buffer. Beside its arena that plan
    keeps buffers for longer: MiniLM in int8 took 55 MB with it and takes 34 MB without.
    """
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None


def _shift_in_file(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Refers to the uint8 file of an int8 weight that lies in a file."""
    import onnx_ir as ir

    from export.ir.exact_form import shifted
    from export.ir.graph import external

    if not isinstance(tensor, ir.ExternalTensor):
        return shifted(tensor)
    location, name = uint8_name(str(tensor.location)), f"{tensor.name}.uint8"
    return external(tensor, location, name, ir.DataType.UINT8)
