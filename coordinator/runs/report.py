"""The contents of ``report.json``, and how they follow from what the session recorded."""

import dataclasses
from collections.abc import Mapping

from coordinator.protocol.record import Compared, FillRecord, Recovery, SessionRecord
from edge_runtime.contract.adapter import Loss
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Usage
from edge_runtime.contract.plan import Plan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FillReport:
    """The fill phase; samples are distinct ones, tokens those of the computed samples."""

    seconds: float
    samples: int
    tokens: int
    computed: int
    reused: int
    eval_computed: int
    eval_reused: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """One adapter epoch; ``eval`` has the metrics after it, where epochs are evaluated."""

    epoch: int
    seconds: float
    train_loss: float
    samples_per_second: float
    eval: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """The caches of all owners together."""

    dtype: str
    bytes: int
    bytes_per_sample: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """One device.

    ``blocks`` is ``[first, last)`` or empty; ``cpu_seconds`` are user + system time of the
    device's process by phase; ``notices`` are what the device warned of, and how often.
    ``compared`` holds what it did against what was predicted: ``fill`` (its stage), ``training``
    (its own computing), ``exchange``.
    """

    id: DeviceId
    profile: str
    roles: tuple[str, ...]
    blocks: tuple[int, ...]
    shards: int
    served_batches: int
    peak_rss_bytes: int
    sent_bytes: int
    received_bytes: int
    received_weight_bytes: int
    cpu_seconds: Mapping[str, float]
    notices: Mapping[str, int] = dataclasses.field(default_factory=dict)
    compared: Mapping[str, Compared] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The contents of ``report.json``.

    ``parameters`` counts trainable ones; ``total_seconds``, ``epochs`` and ``recoveries`` are of
    all sessions of a resumed run, an epoch's time and pace those of the session that ended it.
    ``truncated`` counts lines that were cut to ``max_length`` tokens (None: the model's own
    limit), of which ``truncated_lines`` names the first. The adapter is that of ``kept_epoch``, and
    so is ``eval["after"]``; if it ``stopped_early``, that was ``patience`` epochs after the best.
    """

    task: str
    model: str
    bundle: str
    bundle_digest: str
    seed: int
    labels: tuple[str, ...]
    truncated: int
    dilation: float
    plan: Plan
    parameters: int
    total_seconds: float
    fill: FillReport
    epochs: tuple[EpochReport, ...]
    eval: Mapping[str, Mapping[str, float]]
    cache: CacheReport
    devices: tuple[DeviceReport, ...]
    recoveries: tuple[Recovery, ...] = ()
    max_length: int | None = None
    loss: Loss = "exact"
    truncated_lines: tuple[str, ...] = ()
    batch_size: int = 0
    kept_epoch: int = 0
    patience: int = 0
    stopped_early: bool = False


def fill_report(record: SessionRecord) -> FillReport:
    """Reports the fill of training samples, and what evaluation added to it."""
    nothing = FillRecord(began=0.0, samples=0, reused=0, computed=0, tokens=0)
    train, evaluation = record.fills.get("train", nothing), record.fills.get("eval", nothing)
    return FillReport(
        seconds=train.seconds,
        samples=train.samples,
        tokens=train.tokens,
        computed=train.computed,
        reused=train.reused,
        eval_computed=evaluation.computed,
        eval_reused=evaluation.reused,
    )


def fill_of_sessions(earlier: FillReport | None, now: FillReport) -> FillReport:
    """Chooses the fill of a resumed run: that of the session that computed most of it."""
    if earlier is None:
        return now
    return max(earlier, now, key=lambda fill: fill.computed + fill.eval_computed)


def epoch_reports(record: SessionRecord) -> tuple[EpochReport, ...]:
    """Reports the finished epochs of this session."""
    return tuple(
        EpochReport(
            epoch=epoch.epoch,
            seconds=epoch.seconds,
            train_loss=epoch.train_loss,
            samples_per_second=(epoch.sums.samples - epoch.resumed) / epoch.seconds,
            eval=record.evaluated.get(epoch.epoch, {}),
        )
        for epoch in record.epochs
        if epoch.seconds
    )


def cache_report(record: SessionRecord, dtype: str) -> CacheReport:
    """Sums the sizes of the caches of all owners."""
    total = sum(device.cache_bytes for device in record.devices.values())
    samples = sum(device.cache_samples for device in record.devices.values())
    return CacheReport(dtype=dtype, bytes=total, bytes_per_sample=total / max(1, samples))


def device_reports(
    record: SessionRecord, profiles: Mapping[DeviceId, str]
) -> tuple[DeviceReport, ...]:
    """Reports every device, in the order of ``profiles``: their catalogue names or empty."""
    return tuple(_device_report(record, device, profile) for device, profile in profiles.items())


def _device_report(record: SessionRecord, device: DeviceId, profile: str) -> DeviceReport:
    seen, plan = record.devices[device], record.plan
    stage = plan.stage_of(device) if plan else None
    nothing = Usage(phase="eval", cpu_seconds={}, peak_rss_bytes=0, sent_bytes=0, received_bytes=0)
    usage = seen.usage or nothing
    return DeviceReport(
        id=device,
        profile=profile,
        roles=seen.roles,
        blocks=(stage.first, stage.last) if stage else (),
        shards=len(plan.shards_of(device)) if plan else 0,
        served_batches=seen.served_batches,
        peak_rss_bytes=usage.peak_rss_bytes,
        sent_bytes=usage.sent_bytes,
        received_bytes=usage.received_bytes,
        received_weight_bytes=seen.received_weight_bytes,
        cpu_seconds=usage.cpu_seconds,
        notices=dict(seen.notices),
        compared=dict(seen.compared),
    )
