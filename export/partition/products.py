"""Where a stage's int8 weights and their scales lie in its files."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import onnx
import onnx_ir as ir

from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import IntegerProduct
from export.ir.exact_form import int8_products, own_scale
from export.ir.graph import name_of


def products_in_files(stage: bytes, files: Sequence[FileSpec]) -> tuple[IntegerProduct, ...]:
    """Lists a stage's products with int8 weights, for devices that change weights in place.

    Args:
        stage: as :func:`.cut_stage` makes it.
        files: the stage's weight files.

    Returns:
        All of them; none if one cannot be changed in place, as its constants lie elsewhere or
        have other readers.
    """
    model = onnx.load_model_from_string(stage)
    graph = ir.from_proto(model).graph
    inside = {tensor.name: tensor for tensor in model.graph.initializer}
    index = {PurePosixPath(file.path).name: i for i, file in enumerate(files)}
    found = []
    for node, weight in int8_products(graph):
        if (scale := own_scale(node, weight)) is None:
            return ()
        places = [_place(inside[name_of(value)], stage, index) for value in (weight, scale)]
        shapes = [tuple(inside[name_of(value)].dims) for value in (weight, scale)]
        if None in places or shapes[1] != shapes[0][1:]:
            return ()
        (weight_file, weight_at), (scale_file, scale_at) = filter(None, places)
        found.append(
            IntegerProduct(
                inputs=shapes[0][0],
                outputs=shapes[0][1],
                weight_file=weight_file,
                weight_at=weight_at,
                scale_file=scale_file,
                scale_at=scale_at,
            )
        )
    return tuple(found)


def _place(
    tensor: onnx.TensorProto, stage: bytes, index: Mapping[str, int]
) -> tuple[int, int] | None:
    """File and offset of a constant; None if it is in none, or not in one piece in the graph."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        where = {entry.key: entry.value for entry in tensor.external_data}
        file = index.get(where["location"])
        return None if file is None else (file, int(where.get("offset", 0)))
    whole = tensor.SerializeToString(deterministic=True)  # with its name, which is its own
    if not tensor.raw_data or stage.count(whole) != 1 or whole.count(tensor.raw_data) != 1:
        return None
    return -1, stage.index(whole) + whole.index(tensor.raw_data)
