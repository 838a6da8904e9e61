"""Small helpers on ONNX graphs, shared by the passes and the cutter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.manifest import HIDDEN_PREFIX

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


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """The initializer ``name`` of ``graph``, made from ``array`` if it is not there yet."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The contents of an initializer, or None for anything else."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that alone reads ``value``; None if others, or the graph's user, read it too."""
    consumers = {use.node for use in value.uses()}
    if len(consumers) != 1 or value.is_graph_output():
        return None
    return next(iter(consumers))


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
            assert value.name is not None
            boundary[value.name] = None
        elif producer not in nodes:
            nodes[producer] = None
            pending.extend(read for read in producer.inputs if read is not None)
    return list(nodes), list(boundary), list(initializers)
