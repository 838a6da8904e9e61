"""Small helpers on ONNX graphs, shared by the passes and the cutter."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.manifest import HIDDEN_PREFIX

Array = np.ndarray[Any, Any]

IR_VERSION = 10
OPSET = 21
"""QuantizeLinear by rows; Gelu as one operator came with 20."""

INLINE_BYTES = 1024
"""Constants up to this size (shapes, axes, scalars) stay inside the graph file."""

SUM_COLUMNS = 8
"""Columns of the ones that a sum over keys is a product with.

One column would be computed as a matrix-vector product, whose order of summation
differs from that of a matrix product.
"""


def hidden_name(block: int) -> str:
    """Name of the hidden state that block ``block`` makes."""
    return f"{HIDDEN_PREFIX}{block}"


def name_of(value: ir.Value) -> str:
    """The value's name; every value of a backbone has one."""
    assert value.name is not None
    return value.name


def constant(graph: ir.Graph, name: str, tensor: np.ndarray | ir.TensorProtocol) -> ir.Value:
    """The initializer ``name`` of ``graph``, made from ``tensor`` if it is not there yet."""
    if name not in graph.initializers:
        if isinstance(tensor, np.ndarray | np.generic):
            tensor = ir.Tensor(tensor, name=name)
        kind, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        graph.register_initializer(ir.Value(name=name, shape=shape, type=kind, const_value=tensor))
    return graph.initializers[name]


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The contents of an initializer, or None for anything else."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def append(
    nodes: list[ir.Node] | ir.Graph,
    op_type: str,
    inputs: Sequence[ir.Value],
    name: str,
    domain: str = "",
    **attributes: Any,
) -> ir.Value:
    """Appends an operator called ``name``, as is its only output, which is returned."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    node.outputs[0].name = name
    nodes.append(node)
    return node.outputs[0]


def add_output(
    graph: ir.Graph,
    value: ir.Value,
    name: str,
    *shape: int | str,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> None:
    """Makes ``value`` a graph output."""
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    graph.outputs.append(value)


def serialized(graph: ir.Graph, ir_version: int = IR_VERSION) -> bytes:
    """The model of ``graph``; equal graphs give equal bytes."""
    model = ir.Model(graph, ir_version=ir_version, producer_name="pacplus")
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def external(
    tensor: ir.ExternalTensor, location: str, name: str, dtype: ir.DataType | None = None
) -> ir.ExternalTensor:
    """The same bytes of another file, or as another type."""
    place = (location, tensor.offset, tensor.length, dtype or tensor.dtype)
    return ir.ExternalTensor(*place, shape=ir.Shape(tensor.shape.numpy()), name=name)


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that alone reads ``value``; None if others, or the graph's user, read it too."""
    consumers = {use.node for use in value.uses()}
    return next(iter(consumers)) if len(consumers) == 1 and not value.is_graph_output() else None


def replace(node: ir.Node, new_nodes: Sequence[ir.Node]) -> None:
    """Puts ``new_nodes`` where ``node`` is; the last one's output takes over its name."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old, new = node.outputs[0], new_nodes[-1].outputs[0]
    name = old.name
    graph.insert_before(node, new_nodes)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.shape, new.type = old.shape, old.type
    graph.remove(node, safe=True)
    old.name, new.name = None, name


def slice_nodes(
    outputs: Iterable[ir.Value], stop: frozenset[str]
) -> tuple[list[ir.Node], list[str], list[ir.Value]]:
    """Walks back from ``outputs`` to the values named in ``stop`` and the graph's inputs.

    Returns:
        The nodes on the way (in no particular order), the names of the boundary values that
        were reached, and the initializers that the nodes read.
    """
    nodes: dict[ir.Node, None] = {}
    boundary: dict[str, None] = {}
    initializers: dict[ir.Value, None] = {}
    pending = list(outputs)
    while pending:
        value = pending.pop()
        producer = value.producer()
        if value.is_initializer():
            initializers[value] = None
        elif producer is None or value.name in stop:
            boundary[name_of(value)] = None
        elif producer not in nodes:
            nodes[producer] = None
            pending.extend(read for read in producer.inputs if read is not None)
    return list(nodes), list(boundary), list(initializers)
