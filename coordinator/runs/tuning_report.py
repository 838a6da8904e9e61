"""The part of ``report.json`` that ``--tune`` writes."""

import dataclasses
from collections.abc import Mapping


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
        cpu_seconds: of its own gradients, updates and evaluation.
    """

    number: int
    adapter: str
    reduction: int
    learning_rate: float
    weight_decay: float
    adapter_seed: int
    held_out_loss: tuple[float, ...]
    cpu_seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningReport:
    """Settings that were trained side by side.

    Attributes:
        best: number of the setting whose adapter is kept.
        step: updates behind that adapter.
        steps: after how many updates the settings were evaluated.
        shared_cpu_seconds: of reading and decoding the cache for all settings at once.
        repeat: options of ``pacplus train`` that train the best one alone.
        settings: all of them.
    """

    best: int
    step: int
    steps: tuple[int, ...]
    shared_cpu_seconds: float
    repeat: Mapping[str, str]
    settings: tuple[SettingReport, ...]
