"""Backbone and trained adapter as one ONNX model for any ONNX Runtime.

Inputs are the bundle's (``input_ids``, ``attention_mask``, ...), and ``second_starts`` for
pairs. Output:

    logits   float32 (B, C) for classification, (B, T, V) for language models
    values   float64 (B, 1) for regression, in the targets' units

The model's ``metadata_props`` say the rest; lists are JSON. Needs neither torch nor
transformers.

Integer products get the form that a device serves on the processor at hand. Where uint8 x int8
saturates (x86 without VNNI), these are weights of which no pair can, or uint8 weights. Both give
on every processor what they give there. The latter are no faster than float32 (MiniLM,
16 x 24 tokens: 70 ms in both, 27 ms as int8 with VNNI).
"""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.tensors import read_tensors
from edge_runtime.inference.paired_weights import limit_pairs
from edge_runtime.inference.session import Kernel, keep_choice_in, numerics
from export.ir.exact_form import int8_products, shifted, use_uint8_weights
from export.ir.graph import IR_VERSION, Array, add_output, append, constant, hidden_name, name_of
from export.ir.paired_form import use_limited_weights
from export.output import check_new_file, check_space, explained_os_errors
from export.partition.stages import GRAPH, Bundle

from .graph import build_adapter
from .side_network import Builder, floats, ints

_log = logging.getLogger(__name__)

_PRIVATE = 0o600  # an adapter may give away something of what it was trained on

MAX_INSIDE_BYTES = 1_800_000_000
"""A model with more weights has them in a file beside it: protobuf ends at 2 GB."""

WHERE_FAST = (
    "its int8 weights are for ARM and for x86 with VNNI; on other x86 processors products saturate "
    "and outputs may be off: merge the run there, which makes a form that is right everywhere"
)

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
        eos_token_ids: of a language model, the tokens at which generation has to end.
        notes: what the user should know besides.
    """

    path: Path
    data: Path | None
    bytes: int
    inputs: tuple[str, ...]
    output: str
    eos_token_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def merge_model(
    bundle: Bundle,
    config: AdapterConfig,
    weights: bytes,
    output: Path,
    *,
    progress: Progress | None = None,
    home: Callable[[], Path] | None = None,
) -> MergedModel:
    """Writes the hidden states that the adapter reads, the adapter and the head as one model.

    Args:
        bundle: that the adapter was trained with.
        config: shape of the adapter.
        weights: ``adapter_model.safetensors``.
        output: the ONNX file; must not exist. Nothing is left there on failure.
        progress: called with a few words when a step begins.
        home: where this machine keeps which kernels it has chosen.

    Raises:
        BadInputError: ``output`` exists or cannot be written, or the adapter is damaged.
    """
    say = progress or _log.info
    check_output(output)
    weight_files = bundle.manifest.weight_files(0, max(config.layers) + 1)
    check_space(sum(file.bytes for file in weight_files), output)
    say("joining the graphs")
    graph = _backbone(bundle, config)
    if home is not None:
        keep_choice_in(home)
    form = _fit_products(graph)
    build = build_adapter(config, weights)
    if config.generative:
        _add_logits(build, bundle, graph)
    result = _attach(graph, build, bundle.manifest)
    result.name = "values" if config.task == "regression" else "logits"
    if config.generative:
        ids = "decoder_input_ids" if config.encoder_layers else "input_ids"
        (tokens,) = (value.shape for value in graph.inputs if value.name == ids)
        assert tokens is not None
        result.shape = ir.Shape([*tokens, config.num_outputs])
    graph.outputs[:] = [result]
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="pacplus")
    model.metadata_props.update(metadata(bundle.manifest, config))
    if form is not None:
        model.metadata_props["int8_form"] = form
    say("writing the weights")
    data = _write(model, output)
    return MergedModel(
        path=output,
        data=data,
        bytes=sum(path.stat().st_size for path in (output, data) if path is not None),
        inputs=tuple(map(name_of, graph.inputs)),
        output=name_of(result),
        eos_token_ids=bundle.manifest.eos_token_ids if config.generative else (),
        notes=(WHERE_FAST,) if form == "fast" else (),
    )


def metadata(manifest: Manifest, config: AdapterConfig) -> dict[str, str]:
    """Describes the model for programs that use it."""
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


_CONTEXT = "context"
"""Input for the ids of the tokens that a copying adapter points at."""


def check_output(output: Path) -> None:
    """Raises BadInputError if a model cannot be written there without overwriting anything."""
    check_new_file(output, example="model.onnx")
    check_new_file(_data_path(output), example="model.onnx")


def _data_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.data")


def _backbone(bundle: Bundle, config: AdapterConfig) -> ir.Graph:
    """Cuts the bundle's graph to the hidden states that the adapter reads, its outputs."""
    model = ir.load(bundle.path / GRAPH)
    known = {value.name for value in model.graph.inputs}
    inputs = [spec.name for spec in bundle.manifest.inputs if spec.name in known]
    outputs = [hidden_name(layer) for layer in config.layers]
    graph = ir.convenience.extract(model.graph, inputs=inputs, outputs=outputs)
    graph.name = "backbone_and_adapter"
    return graph


def _fit_products(graph: ir.Graph) -> Kernel | None:
    """Gives products with int8 weights, if there are any, the form of this processor."""
    if not int8_products(graph):
        return None
    kernel = numerics().kernel
    if kernel == "fast" or (kernel == "paired" and use_limited_weights(graph, limit_pairs)):
        return kernel
    use_uint8_weights(graph, shifted)
    return "exact"


def _add_logits(build: Builder, bundle: Bundle, backbone: ir.Graph) -> None:
    """Puts the frozen head behind the adapter's features: cap(scale * (x W^T) + b)."""
    spec = bundle.manifest.head
    assert spec is not None  # a language model's adapter is trained with one
    tensors = read_tensors((bundle.path / spec.path).read_bytes(), spec.path)
    added = build.graph.outputs.pop() if build.config.copies else None
    features = build.graph.outputs.pop()
    rows_Nd = build.add("Reshape", features, ints(-1, build.config.hidden_size))
    weight = _tied(backbone, tensors["weight"])
    if weight is None:
        weight = constant(build.graph, "head.weight", tensors["weight"])
    bias = [tensors["bias"]] if "bias" in tensors else []
    if "scale" in tensors:
        # The file keeps int8; ONNX Runtime folds the conversion when it loads the model.
        logits = build.add("Gemm", rows_Nd, build.to_float(weight), transB=1)
        row_scale = tensors["scale"].reshape(1, -1) * np.float32(spec.scale)
        logits = build.add("Mul", logits, row_scale)
        logits = build.add("Add", logits, *bias) if bias else logits
    else:
        logits = build.add("Gemm", rows_Nd, weight, *bias, alpha=float(spec.scale), transB=1)
    if spec.softcap:
        cap = floats(spec.softcap)
        logits = build.add("Mul", build.add("Tanh", build.add("Div", logits, cap)), cap)
    tokens = build.add("Shape", features, start=0, end=2)
    shape = build.add("Concat", tokens, ints(spec.vocab_size), axis=0)
    logits = build.add("Reshape", logits, shape)
    if added is not None:
        context = build.input(_CONTEXT, ir.DataType.INT64, "batch", "sequence")
        ids = build.add("Unsqueeze", build.add("Cast", context, to=ir.DataType.INT64), ints(1))
        ids = build.add("Expand", ids, build.add("Shape", added))
        logits = build.add("ScatterElements", logits, ids, added, axis=2, reduction="add")
    add_output(build.graph, logits, "logits", "batch", "sequence", spec.vocab_size)


def _tied(graph: ir.Graph, array: Array) -> ir.Value | None:
    """Finds the embeddings that the head is tied to: an initializer with the same contents."""
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
    """Moves the adapter behind ``graph``, whose outputs it reads; returns its own output."""
    adapter, states = build.graph, list(graph.outputs)
    encoder_layers = build.config.encoder_layers
    result = adapter.outputs.pop()
    values = {value.name: value for value in graph.inputs}
    masks = {
        spec.stream: values[spec.name]
        for spec in manifest.inputs
        if spec.kind == "mask" and spec.name in values
    }
    inputs = {value.name: value for value in adapter.inputs}
    adapter.inputs.clear()
    read = {"attention_mask": masks[manifest.output_stream]}
    if encoder_layers:
        read["encoder_hidden"] = _stacked(graph, "encoder_hidden", states[:encoder_layers])
        read["encoder_attention_mask"] = masks["encoder"]
    read["hidden"] = _stacked(graph, "hidden", states[encoder_layers:])
    if _CONTEXT in inputs:
        (tokens,) = (s.name for s in manifest.inputs if s.kind == "tokens")
        read[_CONTEXT] = values[tokens]
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
    axis, name = constant(graph, f"{_PREFIX}axis", ints(0)), f"{_PREFIX}{name}"
    rows = [
        append(graph, "Unsqueeze", [state, axis], f"{name}.{index}")
        for index, state in enumerate(states)
    ]
    return append(graph, "Concat", rows, name, axis=0)


def _write(model: ir.Model, output: Path) -> Path | None:
    """Writes the model; returns the file of its weights, where they are not inside."""
    values = model.graph.initializers.values()
    size = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    data = _data_path(output) if size > MAX_INSIDE_BYTES else None
    with explained_os_errors(output, f"; nothing was written to {output}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own, so that nothing half written ever has the model's name.
        with tempfile.TemporaryDirectory(prefix=".pacplus-", dir=output.parent) as folder:
            partial = Path(folder) / output.name
            if data is None:
                ir.save(ir.external_data.load_to_model(model), partial)
            else:
                ir.save(model, partial, external_data=data.name)
                _data_path(partial).chmod(_PRIVATE)
                _data_path(partial).replace(data)
            partial.chmod(_PRIVATE)
            partial.replace(output)
    return data
