"""Makes a bundle: loads, traces, tidies, quantizes, splits, checks, writes."""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import (
    FORMAT_VERSION,
    FileSpec,
    HeadSpec,
    Manifest,
    Quantization,
    Task,
)
from edge_runtime.contract.tensors import write_tensors

from .chat.stop_tokens import stop_tokens
from .checkpoint.families import UNLIMITED_LENGTH, check_task, position_limit
from .checkpoint.load import Checkpoint, LoadedModel, find_checkpoint, load_model
from .checkpoint.weight_files import backbone_elements
from .ir import passes
from .output import check_space, new_folder
from .partition.blocks import block_slices, describe, write_weights
from .partition.lm_head import end_tokens, frozen_head, start_token
from .partition.stages import GRAPH, MANIFEST, Bundle, file_spec, open_bundle, sha256_of
from .pruning.initial_adapter import (
    CALIBRATION_LENGTH,
    PrunedAdapter,
    check_shape,
    write_initial_adapter,
)
from .quantization.embeddings import quantize_head
from .quantization.modes import quantize_backbone
from .tokenizer.save import save_tokenizer, tokenizer_limit
from .tracing.trace import count_blocks, trace
from .verify.parity import LIMITS, check_parity, measure_parity
from .verify.samples import Sample, check_samples, pad_batch

_log = logging.getLogger(__name__)

_HEAD_SAMPLES = 2
_USUAL_LENGTH = 512  # of models that set no limit, neither by positions nor by the tokenizer

_LEAST_BYTES: dict[Quantization, float] = {"none": 4, "int8": 1, "int4": 0.5}
"""Of an element of a weight in the bundle."""

Progress = Callable[[str], None]


def export_model(
    model: str,
    output: Path,
    *,
    task: Task = "classification",
    quantize: Quantization = "none",
    max_length: int | None = None,
    pruned: PrunedAdapter | None = None,
    ignore: Sequence[str] = (),
    progress: Progress | None = None,
) -> Bundle:
    """Exports a checkpoint as a bundle and checks it against PyTorch.

    Args:
        model: a local Hugging Face folder, a GGUF file, or a hub id.
        output: the bundle's folder; new or empty. Nothing is left there on failure.
        task: what the bundle is for.
        quantize: form of the backbone's weights.
        max_length: longest sample, in tokens; by default what model and tokenizer allow.
        pruned: the initial adapter to cut out of the layers; None makes none.
        ignore: names of weights and settings that nothing uses and that do not matter.
        progress: called with a few words when a step begins.

    Raises:
        BadInputError: ``model`` is no usable model, or has what would be dropped; ``output`` is
            not empty, or cannot be written.
        UsageError: an option does not fit the model.
        PacplusError: the graph is further from PyTorch than the limit.
    """
    say = progress or _log.info
    if quantize not in LIMITS:
        raise UsageError(f"--quantize {quantize}: choose one of {', '.join(LIMITS)}")
    with new_folder(output) as partial, _merging_place(partial) as scratch:
        checkpoint = find_checkpoint(model, Path(scratch), ignore)
        check_task(task, checkpoint.config.model_type, checkpoint.family)
        length = _max_length(checkpoint, max_length)
        if pruned is not None:
            check_shape(pruned, checkpoint.config)
        encoder_only = checkpoint.family.streams(task) == ("encoder",)
        elements = backbone_elements(checkpoint.tensors, encoder_only=encoder_only)
        check_space(int(elements * _LEAST_BYTES[quantize]), output)
        _write_bundle(checkpoint, partial, task, quantize, length, pruned, say)
    return open_bundle(output, verify=False)


def _merging_place(partial: Path) -> tempfile.TemporaryDirectory[str]:
    """Makes a temporary folder beside the bundle, on the disk that was chosen for it."""
    return tempfile.TemporaryDirectory(prefix=".pacplus-merged-", dir=partial.parent)


def _max_length(checkpoint: Checkpoint, wanted: int | None) -> int:
    limit = position_limit(checkpoint.config, checkpoint.family)
    if wanted is None:
        known = tokenizer_limit(checkpoint)
        return min(limit, known or (_USUAL_LENGTH if limit == UNLIMITED_LENGTH else limit))
    if not 1 <= wanted <= limit:
        raise UsageError(f"--max-length {wanted}: must be between 1 and {limit}")
    return wanted


def _write_bundle(
    checkpoint: Checkpoint,
    root: Path,
    task: Task,
    quantize: Quantization,
    max_length: int,
    pruned: PrunedAdapter | None,
    say: Progress,
) -> None:
    config = checkpoint.config
    notes = (*checkpoint.notes, *save_tokenizer(checkpoint, root / "tokenizer"))
    say("loading the checkpoint")
    loaded = load_model(checkpoint, task)
    inputs, language_model = loaded.inputs, loaded.language_model
    start = start_token(language_model, str(checkpoint.path)) if task == "seq2seq" else None

    def samples_of(length: int, texts: Sequence[str] = ()) -> list[Sample]:
        tokenizer = root / "tokenizer" / "tokenizer.json"
        return check_samples(tokenizer, inputs, config.vocab_size, length, start or 0, texts)

    samples = samples_of(max_length)
    streams = count_blocks(loaded)
    graph, said = _make_graph(loaded, len(streams), quantize, samples, root, say)
    notes += said
    say("writing the weights")
    slices = block_slices(graph, inputs, streams)
    weights, files = write_weights(slices, root)
    ir.save(graph, root / GRAPH)
    head, stops, said = _write_head(checkpoint, loaded, samples, quantize, root)
    notes += said
    initial = ""
    if pruned is not None:
        say("pruning the layers")
        texts = samples_of(min(max_length, CALIBRATION_LENGTH), pruned.calibration)
        initial = write_initial_adapter(loaded, texts, streams, pruned, root)
    say("checking against PyTorch")
    parity = measure_parity(loaded, root / GRAPH, samples, streams, quantize)
    check_parity(parity)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_id=checkpoint.model_id,
        architecture=config.model_type,
        task=task,
        quantization=quantize,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        max_length=max_length,
        inputs=inputs,
        blocks=tuple(describe(graph, piece, weights[piece.name], files) for piece in slices),
        files=tuple(
            file_spec(root, path.relative_to(root).as_posix())
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ),
        parity=parity,
        backbone_digest=_backbone_digest(root, files),
        head=head,
        adapter_init=initial,
        eos_token_ids=stops,
        decoder_start_token_id=start,
        notes=notes,
    )
    (root / MANIFEST).write_text(manifest.to_json(), "utf-8")


def _make_graph(
    loaded: LoadedModel,
    blocks: int,
    quantize: Quantization,
    samples: Sequence[Sample],
    root: Path,
    say: Progress,
) -> tuple[ir.Model, tuple[str, ...]]:
    """Traces the backbone, tidies and quantizes it; returns it and what to note.

    Temporary files of quantization lie in ``root``, and none is left there.
    """
    say("exporting the graph")
    graph = trace(loaded, blocks)
    passes.prepare(graph, loaded.inputs)
    notes: tuple[str, ...] = ()
    if quantize != "none":
        say(f"quantizing to {quantize}")
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            notes = quantize_backbone(graph, quantize, samples, loaded.inputs, Path(scratch))
        passes.tidy(graph)
    return graph, notes


def _write_head(
    checkpoint: Checkpoint,
    loaded: LoadedModel,
    samples: Sequence[Sample],
    quantize: Quantization,
    root: Path,
) -> tuple[HeadSpec | None, tuple[int, ...], tuple[str, ...]]:
    """Writes a language model's frozen head; returns it, the tokens that end texts, and notes."""
    model = loaded.language_model
    if model is None:
        return None, (), ()
    batch = pad_batch(samples[:_HEAD_SAMPLES], loaded.inputs)
    head, tensors = frozen_head(model, checkpoint.family, batch)
    notes: tuple[str, ...] = ()
    if quantize != "none":
        tensors = quantize_head(tensors)
        notes = ("head: int8 per row",)
    (root / head.path).write_bytes(write_tensors(tensors))
    place = str(checkpoint.path)
    stops, said = stop_tokens(root / "tokenizer", end_tokens(model), head.vocab_size, place)
    return head, stops, notes + said


def _backbone_digest(root: Path, weights: tuple[FileSpec, ...]) -> Sha256:
    """Digests the graph and, by their digests, the weights."""
    parts = [sha256_of(root / GRAPH), *sorted(file.sha256 for file in weights)]
    return Sha256(hashlib.sha256("\n".join(parts).encode()).hexdigest())
