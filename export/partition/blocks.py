"""Cuts a backbone into blocks and writes their weight files."""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from edge_runtime.contract.errors import PacplusError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import BlockSpec, FileSpec, InputSpec, Stream, TensorSpec
from export.ir.exact_form import PRODUCT
from export.ir.graph import INLINE_BYTES, hidden_name, name_of, slice_nodes

_PAGE_BYTES = 4096  # tensors that fill pages start on one, so that devices can map them
_ALIGNMENT_BYTES = 64
_NORM_FLOPS_PER_CHANNEL = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The part of the graph that is block ``index``.

    Attributes:
        name: e.g. ``layer.3``, or ``decoder.layer.3`` where there are two stacks.
        stream: the sequence that its hidden state belongs to.
        first: it is the first block of its stack.
        nodes: from earlier hidden states (or the graph's inputs) to its own.
        boundary: names of the values that it is fed with.
        initializers: constants that its nodes read.
    """

    index: int
    name: str
    stream: Stream
    first: bool
    nodes: tuple[ir.Node, ...]
    boundary: tuple[str, ...]
    initializers: tuple[ir.Value, ...]


def block_slices(
    model: ir.Model, inputs: Sequence[InputSpec], streams: Sequence[Stream]
) -> tuple[Slice, ...]:
    """Cuts the graph at every hidden state; ``streams`` are their sequences, in order.

    Raises:
        PacplusError: a block needs more than the hidden state before it, the encoder's last
            one and masks; or, as the first of its stack, more than tokens and masks.
    """
    order = {value: position for position, value in enumerate(model.graph.initializers.values())}
    masks = {spec.name for spec in inputs if spec.kind == "mask"}
    rank = {hidden_name(index): index for index in range(len(streams))}
    rank |= {spec.name: len(rank) + index for index, spec in enumerate(inputs)}
    slices = []
    for index, (output, stream) in enumerate(zip(model.graph.outputs, streams, strict=True)):
        first = stream not in streams[:index]
        name = _block_name(index, streams)
        stop = frozenset(hidden_name(earlier) for earlier in range(index))
        nodes, boundary, constants = slice_nodes([output], stop)
        allowed = {spec.name for spec in inputs if spec.stream == stream} if first else set()
        if not first:
            allowed.add(hidden_name(index - 1))
            if stream == "decoder" and "encoder" in streams:
                allowed.add(hidden_name(streams.index("decoder") - 1))
        surplus = set(boundary) - allowed - masks
        if surplus:
            raise PacplusError(f"block {name} needs {sorted(surplus)}; it cannot be cut")
        slices.append(
            Slice(
                index=index,
                name=name,
                stream=stream,
                first=first,
                nodes=tuple(nodes),
                boundary=tuple(sorted(boundary, key=rank.__getitem__)),
                initializers=tuple(sorted(constants, key=order.__getitem__)),
            )
        )
    return tuple(slices)


def _block_name(index: int, streams: Sequence[Stream]) -> str:
    """Counts within the stack; the stack is named where there are two."""
    place = index - streams.index(streams[index])
    name = f"layer.{place - 1}" if place else "embeddings"
    return f"{streams[index]}.{name}" if len(set(streams)) > 1 else name


def write_weights(
    slices: Sequence[Slice], root: Path
) -> tuple[dict[str, tuple[str, ...]], tuple[FileSpec, ...]]:
    """Writes the weights, and has the graph refer to the files.

    An initializer goes into the file of the block that reads it; one that several blocks
    read gets a file of its own.

    Returns:
        Block name -> paths of its files; and all files.
    """
    readers: dict[ir.Value, list[str]] = {}
    for piece in slices:
        for value in piece.initializers:
            assert value.const_value is not None
            if value.const_value.nbytes > INLINE_BYTES:
                readers.setdefault(value, []).append(piece.name)
    contents: dict[str, list[ir.Value]] = {}
    users: dict[str, list[str]] = {}
    shared = (f"shared.{index}" for index in itertools.count())
    for value, names in readers.items():
        group = next(shared) if len(names) > 1 else names[0]
        contents.setdefault(group, []).append(value)
        users[group] = names
    (root / "weights").mkdir()
    files: list[FileSpec] = []
    paths: dict[str, list[str]] = {piece.name: [] for piece in slices}
    for group, values in contents.items():
        file = _write_group(group, values, root)
        files.append(file)
        for name in users[group]:
            paths[name].append(file.path)
    return {name: tuple(found) for name, found in paths.items()}, tuple(files)


def _write_group(group: str, values: Sequence[ir.Value], root: Path) -> FileSpec:
    data = bytearray()
    places = []
    for value in values:
        assert value.const_value is not None
        raw = value.const_value.tobytes()
        alignment = _PAGE_BYTES if len(raw) >= _PAGE_BYTES else _ALIGNMENT_BYTES
        data.extend(b"\0" * (-len(data) % alignment))
        places.append((len(data), len(raw)))
        data.extend(raw)
    sha256 = Sha256(hashlib.sha256(data).hexdigest())
    path = f"weights/{group}-{sha256[:12]}.bin"
    (root / path).write_bytes(data)
    for value, (offset, length) in zip(values, places, strict=True):
        tensor = value.const_value
        assert tensor is not None
        shape, name = ir.Shape(tensor.shape.numpy()), name_of(value)
        value.const_value = ir.ExternalTensor(
            path, offset, length, tensor.dtype, shape=shape, name=name, base_dir=root
        )
    return FileSpec(path=path, bytes=len(data), sha256=sha256)


def describe(
    model: ir.Model, piece: Slice, weights: Sequence[str], files: Sequence[FileSpec]
) -> BlockSpec:
    """The manifest's entry of a block."""
    values = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
    sizes = {file.path: file.bytes for file in files}
    return BlockSpec(
        name=piece.name,
        kind="embeddings" if piece.first else "layer",
        block_class=_block_class(piece),
        inputs=tuple(_tensor_spec(values[name]) for name in piece.boundary),
        outputs=(_tensor_spec(values[hidden_name(piece.index)]),),
        weights=tuple(weights),
        weight_bytes=sum(sizes[path] for path in weights),
        flops_per_token=sum(_flops_per_token(node) for node in piece.nodes),
        stream=piece.stream,
    )


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.dtype is not None
    assert value.shape is not None
    shape = tuple(str(getattr(dimension, "value", dimension)) for dimension in value.shape)
    return TensorSpec(name=name_of(value), dtype=str(value.dtype.numpy()), shape=shape)


def _block_class(piece: Slice) -> str:
    """Digest that blocks with the same operators and shapes of constants share."""
    operators = sorted(node.op_type for node in piece.nodes)
    shapes = sorted(f"{value.dtype}{value.shape}" for value in piece.initializers)
    return hashlib.sha256(repr((operators, shapes)).encode()).hexdigest()[:12]


def _flops_per_token(node: ir.Node) -> int:
    """Counts linear layers and normalizations; attention depends on the sequence's length."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or weight.shape is None or not weight.is_initializer():
        return 0
    shape = [int(size) for size in weight.shape.numpy()]
    if node.op_type == "MatMulNBits":
        return 2 * node.attributes["K"].as_int() * node.attributes["N"].as_int()
    if node.op_type in ("MatMul", PRODUCT) and len(shape) == 2:
        return 2 * shape[0] * shape[1]
    if node.op_type == "LayerNormalization":
        return _NORM_FLOPS_PER_CHANNEL * shape[0]
    return 0
