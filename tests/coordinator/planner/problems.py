"""Small planning problems for the tests."""

from collections.abc import Sequence

from coordinator.planner.problem.problem import Problem, Tokens
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import (
    FORMAT_VERSION,
    BlockSpec,
    FileSpec,
    HeadSpec,
    InputSpec,
    Manifest,
    Parity,
    Stream,
    Task,
    TensorSpec,
)
from edge_runtime.contract.profile import (
    BlockTiming,
    CoreSpeed,
    DeviceProfile,
    LinkProfile,
    TrainerProfile,
)

MB = 1_000_000
HEAD = HeadSpec(path="head.safetensors", vocab_size=9)


def manifest(
    block_bytes: Sequence[int] = (12 * MB, *[2 * MB] * 6),
    *,
    encoder_blocks: int | None = None,
    task: Task = "classification",
) -> Manifest:
    """An embeddings block, then layers; every layer also uses one shared file of 1 MB.

    The first ``encoder_blocks`` (by default all of them) are an encoder's, the rest are a
    decoder's with embeddings of its own; language models have a head.
    """
    encoder_blocks = len(block_bytes) if encoder_blocks is None else encoder_blocks
    sizes = {f"weights/{i}.bin": size for i, size in enumerate(block_bytes)}
    sizes |= {"weights/shared.bin": MB, HEAD.path: MB}
    digits = "0123456789abcdef"
    return Manifest(
        format_version=FORMAT_VERSION,
        model_id="tiny",
        architecture="BertModel",
        task=task,
        quantization="none",
        hidden_size=384,
        num_heads=12,
        max_length=128,
        inputs=_inputs(encoder_blocks, len(block_bytes)),
        blocks=tuple(_block(i, size, encoder_blocks) for i, size in enumerate(block_bytes)),
        files=tuple(
            FileSpec(path=path, bytes=size, sha256=Sha256(digits[i % 16] * 64))
            for i, (path, size) in enumerate(sizes.items())
        ),
        parity=Parity(worst=0.0, limit=1.0, per_state=(), tokens=1),
        backbone_digest=Sha256("ab" * 32),
        head=HEAD if task in ("causal-lm", "seq2seq") else None,
    )


def _inputs(encoder_blocks: int, blocks: int) -> tuple[InputSpec, ...]:
    """One stack's inputs are called the same in encoders and decoders; a second has its own."""
    streams: dict[Stream, str] = {}
    if encoder_blocks:
        streams["encoder"] = ""
    if encoder_blocks < blocks:
        streams["decoder"] = "decoder_" if encoder_blocks else ""
    return tuple(
        InputSpec(name=f"{prefix}{name}", dtype="int64", kind=kind, stream=stream)
        for stream, prefix in streams.items()
        for name, kind in (("input_ids", "tokens"), ("attention_mask", "mask"))
    )


def _block(index: int, size: int, encoder_blocks: int) -> BlockSpec:
    stream: Stream = "encoder" if index < encoder_blocks else "decoder"
    second = "decoder_" if stream == "decoder" and encoder_blocks else ""
    embeds = index in (0, encoder_blocks)
    kind = "embeddings" if embeds else "layer"
    reads = f"{second}input_ids" if embeds else f"hidden.{index - 1}"
    attends = (f"hidden.{encoder_blocks - 1}", "attention_mask") if second and not embeds else ()
    names = dict.fromkeys((reads, *attends, f"{second}attention_mask"))
    return BlockSpec(
        name=f"{kind}.{index}",
        kind=kind,
        stream=stream,
        block_class=kind,
        inputs=tuple(TensorSpec(name=name, dtype="float32", shape=()) for name in names),
        outputs=(TensorSpec(name=f"hidden.{index}", dtype="float32", shape=()),),
        weights=(f"weights/{index}.bin", *(() if embeds else ("weights/shared.bin",))),
        weight_bytes=size,
        flops_per_token=1,
    )


def profile(
    name: str,
    *,
    layer: float | None = 1e-5,
    train: float | None = 1e-3,
    memory: int = 1000 * MB,
    storage: int = 10_000 * MB,
    link: LinkProfile | None = None,
    trainer_memory: int = 100 * MB,
) -> DeviceProfile:
    """A device by its seconds per token of a layer and per trained sample."""
    times = {"embeddings": layer / 10, "layer": layer} if layer else {}
    roles = (*(("backbone",) if layer else ()), *(("trainer",) if train else ()))
    return DeviceProfile(
        device=DeviceId(name),
        roles=roles,
        memory_bytes=memory,
        base_memory_bytes=50 * MB,
        storage_bytes=storage,
        cores=1.0,
        blocks={
            kind: (BlockTiming(batch_size=16, sequence_length=16, seconds_per_token=seconds),)
            for kind, seconds in times.items()
        },
        trainer=TrainerProfile(seconds_per_sample=train, memory_bytes=trainer_memory)
        if train
        else None,
        link=link,
        core=CoreSpeed(flops=1e11, slower=1.0),
    )


def problem(*profiles: DeviceProfile, samples: int = 6000, **changes: object) -> Problem:
    """SST-2 on a small encoder, or on the ``manifest`` among the changes."""
    model = changes.get("manifest") or manifest()
    assert isinstance(model, Manifest)
    fields = {
        "manifest": model,
        "profiles": profiles,
        "num_samples": samples,
        "fill_samples": samples,
        "tokens": {"encoder": Tokens(mean=13.0, max=57), "decoder": Tokens(mean=5.0, max=20)},
        "epochs": 5,
        "batch_size": 16,
        "num_blocks": len(model.blocks),
        "cached_layers": tuple(range(len(model.blocks))),
        "cache_row_bytes": 768,
        "adapter_parameters": 100_000,
    }
    return Problem(**{**fields, **changes})  # type: ignore[arg-type]
