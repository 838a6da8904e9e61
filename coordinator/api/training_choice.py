"""Chooses what training is not told: the batch, what is kept, when to stop. Pure."""

from coordinator.protocol.job import Keep
from coordinator.runs.run_folder import Settings
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Task

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
