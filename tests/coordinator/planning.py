"""Small planning problems for the tests."""

from collections.abc import Sequence

from coordinator.costs import Problem
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import BlockSpec, FileSpec, Manifest, Parity
from edge_runtime.contract.profile import BlockTiming, DeviceProfile, LinkProfile, TrainerProfile

MB = 1_000_000


def manifest(block_bytes: Sequence[int] = (12 * MB, *[2 * MB] * 6)) -> Manifest:
    """An embeddings block, then layers; every layer also uses one shared file of 1 MB."""
    sizes = {f"weights/{i}.bin": size for i, size in enumerate(block_bytes)}
    sizes["weights/shared.bin"] = MB
    files = (FileSpec(path=path, bytes=sizes[path], sha256=Sha256("0" * 64)) for path in sizes)
    return Manifest(
        format_version=1,
        model_id="tiny",
        architecture="BertModel",
        task="classification",
        quantization="none",
        hidden_size=384,
        num_heads=12,
        max_length=128,
        inputs=(),
        blocks=tuple(_block(i, size) for i, size in enumerate(block_bytes)),
        files=tuple(files),
        parity=Parity(worst=0.0, limit=1.0, per_state=(), tokens=1),
        backbone_digest=Sha256("ab" * 32),
    )


def _block(index: int, size: int) -> BlockSpec:
    kind = "layer" if index else "embeddings"
    shared = ("weights/shared.bin",) if index else ()
    return BlockSpec(
        name=f"{kind}.{index}",
        kind=kind,
        alike=kind,
        inputs=(),
        outputs=(),
        weights=(f"weights/{index}.bin", *shared),
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
    )


def problem(*profiles: DeviceProfile, samples: int = 6000, **changes: object) -> Problem:
    """SST-2 on a small encoder."""
    model = manifest()
    fields = {
        "manifest": model,
        "profiles": profiles,
        "num_samples": samples,
        "fill_samples": samples,
        "mean_tokens": 13.0,
        "max_tokens": 57,
        "epochs": 5,
        "batch_size": 16,
        "num_blocks": len(model.blocks),
        "cached_layers": tuple(range(len(model.blocks))),
        "cache_row_bytes": 768,
        "adapter_parameters": 100_000,
    }
    return Problem(**{**fields, **changes})  # type: ignore[arg-type]
