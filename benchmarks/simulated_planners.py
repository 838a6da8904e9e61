"""T5-Large on 8 boards like a Jetson Nano, in simulation: pacplus's plan and other placings.

Example: python benchmarks/simulated_planners.py --devices 8

Run it in a checkout's root. Nothing is measured while it runs. The times of one core that it
starts from were measured with ``pacplus plan`` on T5-Large, exported as int8, with sources of
128 tokens and targets of 3, on a 2 GHz x86 core; a board has four cores of 0.16 of its speed,
as the catalogue says. In fp32, blocks take 2.1 times as long (measured on MiniLM: 15.0
CPU-seconds against 7.1).
"""

from __future__ import annotations

import argparse
import dataclasses

from coordinator.planner import Problem, Tokens, make_plan
from coordinator.planner.baselines import PLANNERS
from coordinator.planner.simulation.simulate import simulate
from devices.catalogue import load_device
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import (
    BlockTiming,
    DeviceProfile,
    HandlingProfile,
    LinkProfile,
    TrainerProfile,
)
from tests.coordinator.planner.large_problems import t5_large

SAMPLES, EPOCHS, BATCH = 3668, 3, 16
SOURCE, TARGET = 128, 3

# One core of the reference, seconds.
BLOCK_SECONDS = {
    "encoder embeddings": 1e-7,
    "encoder layer": 1.65e-4,
    "decoder embeddings": 1e-7,
    "decoder layer": 1.40e-3,
}
DECODER_RUN_SECONDS = 4e-3
TRAINER = TrainerProfile(
    seconds_per_sample=0.39,
    seconds_per_step=0.35,
    memory_bytes=580_000_000,
    parameters=12_988_720,
    seconds_per_exchanged_value=1.2e-8,
)
HANDLING = HandlingProfile(
    seconds_per_message=2.9e-4,
    seconds_per_byte=2.7e-9,
    seconds_per_encoded_byte=1.8e-9,
    seconds_per_stored_byte=1.3e-9,
)
BASE_MEMORY_BYTES = 64_000_000
FP32_SLOWER = 2.1
PUBLISHED = {"adapters": (1.92, 0), "full fine-tuning": (2.59, 737_000_000)}
"""How the others train: a step in forward passes (T5-Base's shape, batch 16 x 128, one thread:
7.5 and 10.1 CPU-seconds, of which the forward pass is 3.9), and values whose gradients are
exchanged in fp32; those of adapters are few enough to be left out."""

AMPLE = 4
"""Times a board's memory, where memory is not to matter."""


def main() -> None:
    arguments = _arguments()
    for precision in ("int8", "fp32"):
        print(f"\n{arguments.devices} boards, backbone in {precision}:\n")
        _compare(_problem(precision, arguments))
    print("\nWhat the others compute as published, against pacplus in int8:\n")
    _as_published(arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument(
        "--bits-per-second", type=float, default=940e6, help="of each board's link, each way"
    )
    parser.add_argument(
        "--memory-bytes",
        type=int,
        default=3_200_000_000,
        help="of each board: of the 4 GiB that it has, its system leaves about so much",
    )
    return parser.parse_args()


def _problem(precision: str, arguments: argparse.Namespace) -> Problem:
    model = t5_large()
    if precision == "fp32":
        sizes = tuple(dataclasses.replace(f, bytes=4 * f.bytes) for f in model.files)
        model = dataclasses.replace(model, files=sizes)
    slower = FP32_SLOWER if precision == "fp32" else 1.0
    boards = (_board(f"nano-{i}", slower, arguments) for i in range(arguments.devices))
    return Problem(
        manifest=model,
        profiles=tuple(boards),
        num_samples=SAMPLES,
        fill_samples=SAMPLES,
        tokens={
            "encoder": Tokens(mean=SOURCE, max=SOURCE),
            "decoder": Tokens(mean=TARGET, max=TARGET),
        },
        epochs=EPOCHS,
        batch_size=BATCH,
        num_blocks=len(model.blocks),
        cached_layers=tuple(range(len(model.blocks))),
        cache_row_bytes=2 * model.hidden_size,
        adapter_parameters=TRAINER.parameters,
    )


def _board(name: str, slower: float, arguments: argparse.Namespace) -> DeviceProfile:
    spec = load_device("jetson-nano")
    speed = spec.relative_speed
    wall = 1 / (spec.cores * speed)
    return DeviceProfile(
        device=DeviceId(name),
        profile="jetson-nano",
        roles=spec.roles,
        memory_bytes=arguments.memory_bytes,
        base_memory_bytes=BASE_MEMORY_BYTES,
        storage_bytes=64_000_000_000,
        cores=spec.cores,
        threads=spec.cores,
        blocks={
            block_class: (
                BlockTiming(
                    batch_size=16,
                    sequence_length=SOURCE if block_class.startswith("encoder") else TARGET,
                    seconds_per_token=seconds * wall * slower,
                    seconds_per_run=DECODER_RUN_SECONDS * wall * (block_class == "decoder layer"),
                ),
            )
            for block_class, seconds in BLOCK_SECONDS.items()
        },
        trainer=dataclasses.replace(
            TRAINER,
            seconds_per_sample=TRAINER.seconds_per_sample * wall,
            seconds_per_step=TRAINER.seconds_per_step * wall,
            seconds_per_exchanged_value=TRAINER.seconds_per_exchanged_value / speed,
        ),
        handling=HandlingProfile(
            **{f.name: getattr(HANDLING, f.name) / speed for f in dataclasses.fields(HANDLING)}
        ),
        link=LinkProfile(
            up_bits_per_second=arguments.bits_per_second,
            down_bits_per_second=arguments.bits_per_second,
            latency_seconds=spec.latency_seconds,
        ),
        measured=False,
    )


def _compare(problem: Problem) -> None:
    """The planner's plan and every other way to place the same work."""
    plan = make_plan(problem)
    mine = simulate(problem, plan).total_seconds
    ample = _lifted(problem)
    print("| placing | stages, devices | fill | an epoch | total | pacplus is faster by |")
    print("|---|---|---|---|---|---|")
    _row("pacplus", problem, plan, mine)
    for name, make in PLANNERS.items():
        if (other := make(problem)) is not None:
            _row(name, problem, other, mine)
            continue
        print(f"| {name} | does not fit | | | | |")
        if (other := make(ample)) is not None:
            _row(f"{name}, were memory no limit", ample, other, mine)


def _lifted(problem: Problem) -> Problem:
    profiles = tuple(
        dataclasses.replace(profile, memory_bytes=AMPLE * profile.memory_bytes)
        for profile in problem.profiles
    )
    return dataclasses.replace(problem, profiles=profiles)


def _row(name: str, problem: Problem, plan: Plan, mine: float) -> None:
    played = simulate(problem, plan)
    shape = f"{len(plan.stages)}, {sum(len(stage.devices) for stage in plan.stages)}"
    print(
        f"| {name} | {shape} | {played.fill_seconds:.0f} s | {played.epoch_seconds:.0f} s | "
        f"{played.total_seconds:.0f} s | {played.total_seconds / mine:.2f} |"
    )


def _as_published(arguments: argparse.Namespace) -> None:
    """An fp32 backbone, forward and backward through it in every epoch, nothing cached.

    In the others' favour: memory is no limit, exchanging gradients takes no processor time,
    and a backward pass fills its pipe as well as a forward one.
    """
    ours = _problem("int8", arguments)
    mine = simulate(ours, make_plan(ours)).total_seconds
    theirs = _lifted(_problem("fp32", arguments))
    # Only the last hidden state goes to who computes the loss.
    theirs = dataclasses.replace(theirs, cached_layers=(theirs.num_blocks - 1,))
    print("| system | seconds | pacplus is faster by |")
    print("|---|---|---|")
    for name in ("one device", "data parallel (EDDL)", "pipeline (Eco-FL)"):
        plan = PLANNERS[name](theirs)
        assert plan is not None, "memory is no limit"
        fill = simulate(theirs, plan).fill_seconds
        for method, (passes, exchanged) in PUBLISHED.items():
            replicas = max(len(stage.devices) for stage in plan.stages)
            step = 2 * (replicas - 1) / replicas * 32 * exchanged / arguments.bits_per_second
            steps = steps_per_epoch(SAMPLES, BATCH)
            seconds = EPOCHS * (passes * fill + steps * step)
            print(f"| {name}, {method} | {seconds:.0f} s | {seconds / mine:.2f} |")


if __name__ == "__main__":
    main()
