"""The part of ``report.json`` that ``--tune`` writes."""

import dataclasses
from collections.abc import Mapping

from edge_runtime.contract.held_out import HeldOut


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SettingReport:
    """One setting.

    Attributes:
        number: 0 is the one that was asked for.
        adapter: kind of the side blocks.
        reduction: backbone width / adapter width.
        learning_rate: peak.
        weight_decay: of the side network's matrices.
        adapter_seed: of the first weights.
        held_out_loss: at each of the tuning's steps, as far as it was trained; null where training
            diverges.
        held_out_accuracy: likewise, of classifiers; null for other tasks.
        best_step: updates behind the best of its adapters at the end of an epoch; where it reached
            none, those that it was trained for.
        cpu_seconds: of its own gradients, updates and evaluation.
    """

    number: int
    adapter: str
    reduction: int
    learning_rate: float
    weight_decay: float
    adapter_seed: int
    held_out_loss: tuple[float, ...]
    held_out_accuracy: tuple[float, ...] | None
    best_step: int
    cpu_seconds: float

    def held_out(self, place: int) -> HeldOut:
        """What it came to at one of the tuning's steps."""
        accuracy = self.held_out_accuracy
        return HeldOut(
            loss=self.held_out_loss[place], accuracy=None if accuracy is None else accuracy[place]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningReport:
    """Settings that were trained side by side.

    Attributes:
        best: number of the setting whose adapter is kept.
        step: updates behind that adapter.
        steps: after how many updates the settings were evaluated.
        shared_cpu_seconds: of reading the cache for all settings at once.
        repeat: options of ``pacplus train`` that train the best one alone.
        settings: all of them.
    """

    best: int
    step: int
    steps: tuple[int, ...]
    shared_cpu_seconds: float
    repeat: Mapping[str, str]
    settings: tuple[SettingReport, ...]
