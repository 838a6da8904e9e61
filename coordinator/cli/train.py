"""Runs ``pacplus train``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.contract.errors import UsageError

from . import options as o
from .exit_codes import resumable
from .field_options import names_fields

if TYPE_CHECKING:
    from coordinator.api.train import TrainResult
    from coordinator.data import FieldNames


@names_fields
def train(
    bundle: o.Bundle,
    data: o.TrainingData,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder of the run.")],
    evaluation: o.Evaluation = None,
    held_out: o.HeldOut = None,
    task: o.Task = None,
    plan: o.GivenPlan = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that stopped.")
    ] = False,
    as_json: o.Json = False,
    emulate: o.Emulate = "",
    devices: o.Devices = "",
    listen: o.Listen = o.LISTEN,
    reprofile: o.Reprofile = False,
    wait: o.Wait = "",
    max_length: o.MaxLength = "",
    epochs: o.Epochs = 3,
    batch_size: o.BatchSize = o.AUTO,
    learning_rate: o.LearningRate = None,
    schedule: o.Schedule = "linear",
    weight_decay: o.WeightDecay = None,
    patience: o.Patience = None,
    keep: o.Keep = None,
    seed: o.Seed = 0,
    adapter_seed: o.AdapterSeed = None,
    tune: o.Tune = None,
    loss: o.Loss = "candidates",
    adapter: o.Adapter = None,
    adapter_layers: o.AdapterLayers = "all",
    adapter_heads: o.AdapterHeads = 1,
    adapter_init: o.AdapterInit = "random",
    reduction: o.Reduction = 8,
    cache_dtype: o.Dtype = "auto",
    cache_quota: o.CacheQuota = "",
    encrypt_cache: o.EncryptCache = False,
    *,
    fields: "Callable[[], FieldNames]",
) -> None:
    """Fine-tune an adapter on your data, on your devices.

    Example: pacplus train bundle --data train.jsonl --eval dev.jsonl -o run
    --emulate raspberry-pi-5,laptop --epochs 3

    With data to evaluate on, the best epoch's adapter is kept: pacplus train bundle --data
    chats.jsonl --split 0.1 -o run --epochs 20 --patience 3

    With --tune 8 that of the best of eight settings.
    """
    for name, value in (("--reduction", reduction), ("--adapter-heads", adapter_heads)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1")
    alone = not emulate and not devices
    with resumable(output), o.head_start(bundle, output, wanted=alone, resume=resume) as begun:
        # Not before the device has begun to start: this takes a third of a second, too.
        from coordinator.api.adapter_config import AdapterChoice
        from coordinator.api.train import train as run_training
        from devices.specification import parse_bytes

        result = run_training(
            bundle,
            data,
            output=output,
            evaluation=evaluation or None,
            held_out=held_out,
            task=task,
            cluster=o.cluster(emulate, devices, listen, reprofile, head_start=begun),
            adapter=AdapterChoice(
                kind=adapter,
                reduction=reduction,
                layers=adapter_layers,
                num_heads=adapter_heads,
                initialization=adapter_init,
            ),
            options=o.training_options(
                *(epochs, batch_size, learning_rate, seed, loss),
                weight_decay=weight_decay,
                schedule=schedule,
                adapter_seed=adapter_seed,
            ),
            auto_batch_size=batch_size == o.AUTO,
            keep=keep,
            patience=patience,
            fields=fields(),
            cache_dtype=cache_dtype,
            max_length=o.max_length(max_length),
            cache_quota_bytes=parse_bytes(cache_quota, "--cache-quota") if cache_quota else None,
            encrypt_cache=encrypt_cache,
            plan=plan,
            resume=resume,
            wait_seconds=o.duration(wait, "--wait") if wait else None,
            tune=tune,
            observer=o.display(),
        )
    _show(result, as_json=as_json)


def _show(result: "TrainResult", *, as_json: bool) -> None:
    from coordinator.render.report import show_report
    from edge_runtime.contract.structure import to_plain

    if as_json:
        o.print_json(to_plain(result.report))
    else:
        show_report(result.report, result.run)
