"""Chooses what training is not told: the batch, what is kept, when to stop. Pure."""

import dataclasses

from coordinator.protocol.job import Keep
from coordinator.runs.run_folder import Settings
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Task

from .adapter_config import AdapterChoice

LANGUAGE_PATIENCE = 2
"""Epochs; one alone may be worse by chance, and each costs as much as training did before it."""

ENOUGH_UPDATES = 300
"""Of a whole run, from where on a wider batch is preferred to more updates."""

NARROWEST, WIDEST = 4, 16


def auto_batch_size(task: Task, lines: int, epochs: int) -> int:
    """Chooses a batch size by the data.

    With few lines, updates matter more than the width of a batch (SmolLM2-135M, 100 lines of
    gsm8k, 3 epochs: held-out loss 1.161 with batches of 4, 75 updates, and 1.373 with 16, 21
    updates). So language models get the widest batch, a power of two, that leaves
    :data:`ENOUGH_UPDATES`. Other tasks learn one label a line, whose noise wide batches even out;
    they keep 16.

    Args:
        task: what is learnt.
        lines: to train on.
        epochs: passes over them.
    """
    if task not in ("causal-lm", "seq2seq"):
        return WIDEST
    size = WIDEST
    while size > NARROWEST and epochs * lines < size * ENOUGH_UPDATES:
        size //= 2
    return size


def as_begun(
    adapter: AdapterChoice, options: TrainingOptions, begun: Settings, *, auto_batch_size: bool
) -> tuple[AdapterChoice, TrainingOptions]:
    """Takes what is not given from the run that is gone on with: defaults may have changed."""
    rate, decay = options.learning_rate, options.weight_decay
    return (
        dataclasses.replace(adapter, kind=adapter.kind or begun.adapter),
        dataclasses.replace(
            options,
            learning_rate=begun.learning_rate if rate is None else rate,
            weight_decay=begun.weight_decay if decay is None else decay,
            batch_size=begun.batch_size if auto_batch_size else options.batch_size,
        ),
    )


def default_patience(task: Task, *, evaluates: bool) -> int:
    """Chooses after how many epochs without a lower loss to stop; 0 for never.

    A language model that has seen its few lines often learns them by heart: its held-out loss
    rises from some epoch on. The accuracy of a classifier, by few held-out lines, goes up and down,
    and its epochs are cheap.
    """
    language = task in ("causal-lm", "seq2seq")
    return LANGUAGE_PATIENCE if language and evaluates else 0


def choose_kept(
    task: Task, *, evaluates: bool, keep: Keep | None, patience: int | None, begun: Settings | None
) -> tuple[Keep, int]:
    """Chooses whose adapter is kept and the patience, see :class:`.Job`.

    Args:
        task: what is learnt.
        evaluates: there are samples to evaluate on.
        keep: as the user wants it.
        patience: likewise.
        begun: settings of the run that is gone on with.
    """
    if begun is not None:
        return keep or begun.keep, begun.patience if patience is None else patience
    if patience is None:
        patience = default_patience(task, evaluates=evaluates)
    return keep or ("best" if evaluates else "last"), patience


def check_kept(*, evaluates: bool, keep: Keep | None, patience: int | None) -> None:
    """Refuses what cannot be done without samples to evaluate on.

    Raises:
        UsageError: says which option, and what it needs.
    """
    if patience is not None and patience < 0:
        raise UsageError("--patience must not be negative")
    asked = {"--keep best": keep == "best", f"--patience {patience}": bool(patience)}
    for option, given in asked.items():
        if given and not evaluates:
            raise UsageError(f"{option} needs data to judge epochs by: give --eval or --split")
