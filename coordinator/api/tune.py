"""What ``--tune`` adds to a training: its settings, how to plan for them, and its report."""

import dataclasses
from collections.abc import Callable, Mapping

from coordinator.planner import Problem
from coordinator.planner.one_owner import plan_one_owner
from coordinator.protocol.job import Keep
from coordinator.protocol.record import SessionRecord
from coordinator.runs.tuning_report import SettingReport, TuningReport
from coordinator.tuning.design import draw_settings
from coordinator.tuning.race import Race
from edge_runtime.contract.activations import FLOAT_BYTES, OPTIMIZER_COPIES, count_parameters
from edge_runtime.contract.adapter import AdapterConfig, settled
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.messages import Setting
from edge_runtime.contract.messages.tuning import MOST_SETTINGS
from edge_runtime.contract.plan import Plan

from .inputs import Prepared

_BYTES = FLOAT_BYTES * OPTIMIZER_COPIES
"""Of a parameter of an adapter that is trained."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tuning:
    """The settings of a run; none where nothing is tuned, which changes nothing anywhere."""

    settings: tuple[Setting, ...] = ()

    def kept(self, keep: Keep, patience: int) -> tuple[Keep, int]:
        """What the session is to keep and when to stop: a tuning compares epochs itself."""
        return ("last", 0) if self.settings else (keep, patience)

    def epoch(self, record: SessionRecord, last: int) -> int:
        """The epoch whose adapter the session has kept."""
        race = record.race
        if race is None:
            return last
        return sum(stop.ends_epoch and stop.step <= race.best[1] for stop in race.stops)

    @classmethod
    def of(cls, prepared: Prepared, count: int | None) -> "Tuning":
        """Draws ``count`` settings for what is prepared; none for None."""
        return cls(draw_settings(prepared.config, prepared.options, count) if count else ())

    def plans(self, decide: Callable[[Problem], Plan]) -> Callable[[Problem], Plan]:
        """Has one device own all samples, with memory for all adapters."""
        if not self.settings:
            return decide
        parameters = sum(count_parameters(each.config) for each in self.settings)
        return lambda problem: plan_one_owner(problem, decide, _BYTES * parameters)

    def chosen(self, record: SessionRecord) -> Setting | None:
        """The setting whose adapter the session has kept; None where nothing was tuned."""
        return self.settings[record.race.best[0]] if record.race is not None else None

    def config(self, record: SessionRecord, asked: AdapterConfig) -> AdapterConfig:
        """Shape of the adapter that the session has kept."""
        chosen = self.chosen(record)
        return asked if chosen is None else chosen.config

    def report(self, record: SessionRecord) -> TuningReport | None:
        """Reports what each setting has come to."""
        race = record.race
        if race is None:
            return None
        best, step = race.best
        return TuningReport(
            best=best,
            step=step,
            steps=tuple(each.stop.step for each in race.reached),
            shared_cpu_seconds=sum(each.shared_seconds for each in race.reached),
            repeat=repeat(self.settings[best]),
            settings=tuple(_setting_report(each, race) for each in self.settings),
        )


def check_tune(
    count: int | None, *, evaluates: bool, keep: Keep | None = None, patience: int | None = None
) -> None:
    """Refuses a tuning that cannot be.

    Raises:
        UsageError: it is that; says what to give.
    """
    if count is None:
        return
    if not 2 <= count <= MOST_SETTINGS:
        raise UsageError(f"--tune {count}: give a number of settings from 2 to {MOST_SETTINGS}")
    if not evaluates:
        raise UsageError(
            "--tune compares settings on held-out data: give a file by --eval, or a part of --data "
            "by --split 0.1"
        )
    if keep == "last" or patience:
        raise UsageError(
            "--tune keeps the best setting's best epoch: leave out --keep last and --patience"
        )


def repeat(setting: Setting) -> Mapping[str, str]:
    """Options of ``pacplus train`` that train this setting alone, besides those given before."""
    config, options = setting.config, settled(setting.options, setting.config)
    return {
        "--learning-rate": f"{options.peak!r}",
        "--adapter": config.kind,
        "--reduction": str(config.reduction),
        "--weight-decay": f"{options.decay!r}",
        "--adapter-seed": str(options.initial_seed),
        "--patience": "0",
    }


def _setting_report(setting: Setting, race: Race) -> SettingReport:
    config, number = setting.config, setting.number
    options = settled(setting.options, config)
    seen = [each for each in race.reached if number in each.worth]
    worth = [each.worth[number] for each in seen]
    accuracies = tuple(each.accuracy for each in worth if each.accuracy is not None)
    return SettingReport(
        number=number,
        adapter=config.kind,
        reduction=config.reduction,
        learning_rate=options.peak,
        weight_decay=options.decay,
        adapter_seed=options.initial_seed,
        held_out_loss=tuple(each.loss for each in worth),
        held_out_accuracy=accuracies or None,
        best_step=race.best_of(number),
        cpu_seconds=sum(each.seconds[number] for each in seen),
    )
