"""Backbone and trained adapter as one ONNX model for any ONNX Runtime.

Inputs are the bundle's (``input_ids``, ``attention_mask``, ...), and ``second_starts`` for
pairs. Output:

    logits   float32 (B, C) for classification, (B, T, V) for language models
    values   float32 (B, 1) for regression, in the targets' units

The model's ``metadata_props`` say the rest; lists are JSON. Needs neither torch nor
transformers.

Integer products get the form that is exact on the processor at hand: where uint8 x int8
saturates (x86 without VNNI), uint8 weights, which are exact everywhere but no faster than
float32 (MiniLM, 16 x 24 tokens: 70 ms in both, 27 ms as int8 with VNNI).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import HeadSpec, Manifest, Stream
from edge_runtime.contract.tensors import read_tensors
from edge_runtime.inference.session import matmul_integer_is_exact
from export.ir.exact_form import shifted, use_uint8_weights
from export.ir.graph import constant, hidden_name
from export.partition.stages import GRAPH, Bundle

from .graph import IR_VERSION, build_adapter
from .side_network import Array, Builder, ints

_log = logging.getLogger(__name__)

_PRIVATE = 0o600  # an adapter may give away something of what it was trained on

MAX_INSIDE_BYTES = 1_800_000_000
"""A model with more weights has them in a file beside it: protobuf ends at 2 GB."""

_PREFIX = "adapter/"

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MergedModel:
    """A merged model on disk.

    Attributes:
        path: the ONNX file.
        data: the file with its weights, where they are not inside; it must stay beside.
        bytes: of both.
        inputs: names of the model's inputs.
        output: name of its output.
    """

    path: Path
    data: Path | None
    bytes: int
    inputs: tuple[str, ...]
    output: str


def merge_model(
    bundle: Bundle,
    config: AdapterConfig,
    weights: bytes,
    output: Path,
    *,
    progress: Progress | None = None,
) -> MergedModel:
    """Writes the hidden states that the adapter reads, the adapter and the head as one model.

    Args:
        bundle: that the adapter was trained with.
        config: shape of the adapter.
        weights: ``adapter_model.safetensors``.
        output: the ONNX file; must not exist. Nothing is left there on failure.
        progress: called with a few words when a step begins.

    Raises:
        BadInputError: ``output`` exists or cannot be written, or the adapter is damaged.
    """
    say = progress or _log.info
    check_output(output)
    say("joining the graphs")
    graph = _backbone(bundle, config)
    if not matmul_integer_is_exact():
        use_uint8_weights(graph, shifted)
    build = build_adapter(config, weights)
    if config.generative:
        _add_logits(build, bundle, graph)
    result = _attach(graph, build, bundle.manifest)
    graph.outputs[:] = [_named_output(result, config, graph)]
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="pacplus")
    model.metadata_props.update(metadata(bundle.manifest, config))
    say("writing the weights")
    data = _write(model, output)
    return MergedModel(
        path=output,
        data=data,
        bytes=sum(path.stat().st_size for path in (output, data) if path is not None),
        inputs=tuple(value.name or "" for value in graph.inputs),
        output=graph.outputs[0].name or "",
    )


def metadata(manifest: Manifest, config: AdapterConfig) -> dict[str, str]:
    """What a program that uses the model must know besides."""
    found = {
        "task": config.task,
        "labels": json.dumps(config.labels),
        "base_model": config.base_model or manifest.model_id,
        "max_length": str(manifest.max_length),
        "eos_token_ids": json.dumps(manifest.eos_token_ids),
        "quantization": manifest.quantization,
        "bundle_digest": manifest.digest,
    }
    if config.encoder_layers and manifest.decoder_start_token_id is not None:
        found["decoder_start_token_id"] = str(manifest.decoder_start_token_id)
    return found


def check_output(output: Path) -> None:
    """Raises BadInputError if a model cannot be written there without overwriting anything."""
    for path in (output, _data_path(output)):
        if path.exists():
            raise BadInputError(f"{path}: exists; choose another -o, or remove it first")


def _data_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.data")


def _backbone(bundle: Bundle, config: AdapterConfig) -> ir.Graph:
    """The bundle's graph up to the hidden states that the adapter reads; those are outputs."""
    model = ir.load(bundle.path / GRAPH)
    names = [spec.name for spec in bundle.manifest.inputs]
    known = {value.name for value in model.graph.inputs}
    graph = ir.convenience.extract(
        model.graph,
        inputs=[name for name in names if name in known],
        outputs=[hidden_name(layer) for layer in config.layers],
    )
    graph.name = "backbone_and_adapter"
    return graph


def _add_logits(build: Builder, bundle: Bundle, backbone: ir.Graph) -> None:
    """Puts the frozen head behind the adapter's features: cap(scale * (x W^T) + b)."""
    spec = bundle.manifest.head
    assert spec is not None  # a language model's adapter is trained with one
    tensors = read_tensors((bundle.path / spec.path).read_bytes(), spec.path)
    features = build.graph.outputs.pop()
    rows_Nd = build.add("Reshape", features, ints(-1, build.config.hidden_size))
    weight = _shared(backbone, tensors["weight"]) or constant(
        build.graph, "head.weight", tensors["weight"]
    )
    logits = _product(build, rows_Nd, weight, spec, tensors)
    if spec.softcap:
        cap = np.array([spec.softcap], np.float32)
        logits = build.add("Mul", build.add("Tanh", build.add("Div", logits, cap)), cap)
    tokens = build.add("Shape", features, start=0, end=2)
    shape = build.add("Concat", tokens, ints(spec.vocab_size), axis=0)
    logits = build.add("Reshape", logits, shape)
    build.output("logits", logits, "batch", "sequence", spec.vocab_size)


def _product(
    build: Builder,
    rows_Nd: ir.Value,
    weight: ir.Value,
    spec: HeadSpec,
    tensors: Mapping[str, Array],
) -> ir.Value:
    """(N, V): scale * (x W^T) + b."""
    bias = tensors.get("bias")
    row_scale = tensors.get("scale")
    if row_scale is None:
        more = [] if bias is None else [bias]
        return build.add("Gemm", rows_Nd, weight, *more, alpha=float(spec.scale), transB=1)
    # The file keeps int8; ONNX Runtime folds the conversion when it loads the model.
    logits = build.add("Gemm", rows_Nd, build.floats(weight), transB=1)
    logits = build.add("Mul", logits, row_scale.reshape(1, -1) * np.float32(spec.scale))
    return logits if bias is None else build.add("Add", logits, bias)


def _shared(graph: ir.Graph, array: Array) -> ir.Value | None:
    """The initializer with that contents, if there is one: embeddings that the head is tied to."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if (
            tensor is not None
            and tuple(tensor.shape.numpy()) == array.shape
            and tensor.dtype.numpy() == array.dtype
            and np.array_equal(tensor.numpy(), array)
        ):
            return value
    return None


def _attach(graph: ir.Graph, build: Builder, manifest: Manifest) -> ir.Value:
    """Moves the adapter behind ``graph``, whose outputs are the states to be read.

    Returns:
        The adapter's output.
    """
    adapter, states = build.graph, list(graph.outputs)
    encoder_layers = build.config.encoder_layers
    result = adapter.outputs.pop()
    masks: dict[Stream, ir.Value] = {
        spec.stream: value
        for spec in manifest.inputs
        for value in graph.inputs
        if spec.kind == "mask" and spec.name == value.name
    }
    inputs = {value.name: value for value in adapter.inputs}
    adapter.inputs.clear()
    read: dict[str, ir.Value] = {"attention_mask": masks[manifest.output_stream]}
    if encoder_layers:
        read["encoder_hidden"] = _stacked(graph, "encoder_hidden", states[:encoder_layers])
        read["encoder_attention_mask"] = masks["encoder"]
    read["hidden"] = _stacked(graph, "hidden", states[encoder_layers:])
    if "second_starts" in inputs:
        graph.inputs.append(inputs["second_starts"])
    for name, value in read.items():
        ir.convenience.replace_all_uses_with(inputs[name], value)
    _move(adapter, graph)
    return result


def _move(adapter: ir.Graph, graph: ir.Graph) -> None:
    """Moves constants and operators, under names of their own."""
    for name, value in list(adapter.initializers.items()):
        adapter.initializers.pop(name)
        value.name = f"{_PREFIX}{name}"
        graph.register_initializer(value)
    nodes = list(adapter)
    adapter.remove(nodes)
    for node in nodes:
        node.name = f"{_PREFIX}{node.name}"
        for output in node.outputs:
            output.name = f"{_PREFIX}{output.name}"
    graph.extend(nodes)


def _stacked(graph: ir.Graph, name: str, states: list[ir.Value]) -> ir.Value:
    """States (B, T, d) as one (L, B, T, d)."""
    axis = constant(graph, f"{_PREFIX}axis", ints(0))
    nodes = [ir.node("Unsqueeze", [state, axis]) for state in states]
    for index, node in enumerate(nodes):
        node.name = node.outputs[0].name = f"{_PREFIX}{name}.{index}"
    joined = ir.node("Concat", [node.outputs[0] for node in nodes], {"axis": 0})
    joined.name = joined.outputs[0].name = f"{_PREFIX}{name}"
    graph.extend([*nodes, joined])
    return joined.outputs[0]


def _named_output(value: ir.Value, config: AdapterConfig, graph: ir.Graph) -> ir.Value:
    """The model's output, with the axes of the inputs."""
    value.name = "values" if config.task == "regression" else "logits"
    if config.generative:
        ids = "decoder_input_ids" if config.encoder_layers else "input_ids"
        (tokens,) = (item.shape for item in graph.inputs if item.name == ids)
        assert tokens is not None
        value.shape = ir.Shape([*tokens, config.num_outputs])
    return value


def _write(model: ir.Model, output: Path) -> Path | None:
    """Writes the model; the file of its weights is returned, where they are not inside."""
    values = model.graph.initializers.values()
    size = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    data = _data_path(output) if size > MAX_INSIDE_BYTES else None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own, so that nothing half written ever has the model's name.
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            partial = Path(folder) / output.name
            if data is None:
                ir.save(ir.external_data.load_to_model(model), partial)
            else:
                ir.save(model, partial, external_data=data.name)
                _data_path(partial).chmod(_PRIVATE)
                _data_path(partial).replace(data)
            partial.chmod(_PRIVATE)
            partial.replace(output)
    except OSError as error:
        raise BadInputError(f"{output}: cannot be written: {error.strerror}") from None
    return data
