"""Manifests in the shape of large models, for tests and simulations at scale."""

import dataclasses

from coordinator.planner.problem.problem import Problem, Tokens
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.profile import BlockTiming, DeviceProfile, LinkProfile, TrainerProfile
from tests.coordinator.planner.problems import MB, manifest
from tests.coordinator.planner.problems import problem as small_problem


def t5_large() -> Manifest:
    """T5-Large in int8: 2 embeddings and 48 layers of width 1024, 0.74 G parameters."""
    encoder, decoder = [33 * MB, *[12_600_000] * 24], [33 * MB, *[16_800_000] * 24]
    made = manifest([*encoder, *decoder], encoder_blocks=25, task="seq2seq")
    blocks = tuple(
        dataclasses.replace(block, block_class=f"{block.stream} {block.kind}")
        for block in made.blocks
    )
    return dataclasses.replace(made, hidden_size=1024, num_heads=16, blocks=blocks)


def decoder_7b() -> Manifest:
    """A Llama-2-7B in int8: embeddings and 32 layers of width 4096."""
    made = manifest([131 * MB, *[202 * MB] * 32], encoder_blocks=0, task="causal-lm")
    return dataclasses.replace(made, hidden_size=4096, num_heads=32)


def large_problem(model: Manifest, *profiles: DeviceProfile, samples: int = 3668) -> Problem:
    """MRPC's size: batches of 16 samples of 128 tokens (2 of a target), three epochs."""
    written = 2 if len(model.streams) == 2 else 128
    return small_problem(
        *profiles,
        samples=samples,
        manifest=model,
        tokens={"encoder": Tokens(mean=128, max=128), "decoder": Tokens(mean=written, max=written)},
        epochs=3,
        cache_row_bytes=2 * model.hidden_size,
        adapter_parameters=12_000_000,
    )


def board(
    name: str,
    *,
    layer: float = 2e-4,
    sample: float = 0.2,
    memory: int = 4000 * MB,
    bits_per_second: float = 940e6,
) -> DeviceProfile:
    """A Jetson-Nano-like device by its seconds for a token of a layer and a trained sample."""
    return DeviceProfile(
        device=name,  # type: ignore[arg-type]
        roles=("backbone", "trainer"),
        memory_bytes=memory,
        base_memory_bytes=50 * MB,
        storage_bytes=64_000 * MB,
        cores=4.0,
        threads=4,
        blocks={
            f"{stream}{kind}": (
                BlockTiming(batch_size=16, sequence_length=128, seconds_per_token=seconds),
            )
            for stream in ("", "encoder ", "decoder ")
            for kind, seconds in {"embeddings": layer / 20, "layer": layer}.items()
        },
        trainer=TrainerProfile(
            seconds_per_sample=sample,
            seconds_per_step=0.05,
            memory_bytes=400 * MB,
            parameters=12_000_000,
        ),
        link=LinkProfile(
            up_bits_per_second=bits_per_second,
            down_bits_per_second=bits_per_second,
            latency_seconds=2e-4,
        ),
    )
