"""Makes the lines of ``events.jsonl``. Pure."""

from coordinator.protocol.actions import Record
from coordinator.protocol.record import EpochRecord, FillRecord, GenerationRecord


def fill_started(fill: FillRecord) -> Record:
    """Notes that training samples are being computed."""
    fields = {"samples": fill.samples, "to_compute": fill.computed}
    return Record(event="fill_started", fields=fields)


def fill_finished(fill: FillRecord) -> Record:
    """Notes that all training samples are cached."""
    fields = {"computed": fill.computed, "reused": fill.reused, "seconds": fill.seconds}
    return Record(event="fill_finished", fields=fields)


def epoch_finished(epoch: EpochRecord) -> Record:
    """Notes that every trainer has finished an epoch."""
    fields = {"epoch": epoch.epoch, "train_loss": epoch.train_loss, "seconds": epoch.seconds}
    return Record(event="epoch_finished", fields=fields)


def generation_finished(record: GenerationRecord) -> Record:
    """Notes that all texts are written."""
    fields = {"tokens": record.written, "seconds": record.seconds}
    return Record(event="generation_finished", fields=fields)
