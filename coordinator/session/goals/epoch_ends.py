"""Between two epochs: what the one that has ended is worth on evaluation samples. Pure.

Nobody trains on before that is known and kept, so that neither the best state nor what was found
of it can be lost with a device, or with the coordinator.
"""

from collections.abc import Callable

from coordinator.protocol.actions import KeepEvaluation
from coordinator.protocol.best_epoch import best_epoch
from coordinator.session.questions import Todo
from coordinator.session.state import State

from .between_epochs import reconsider
from .training import evaluate


def at_end(goal: Callable[[State], Todo | None]) -> Callable[[State], Todo | None]:
    """Makes a goal matter only as long as an epoch that is over has not been evaluated."""

    def reach(state: State) -> Todo | None:
        return goal(state) if awaits_evaluation(state) else None

    return reach


def awaits_evaluation(state: State) -> bool:
    """True if the saved state is that of an epoch's end, and not evaluated yet."""
    job, over = state.job, state.epochs_over
    at_an_end = over > 0 and state.saved.step == over * job.steps_per_epoch
    return job.evaluates_epochs and at_an_end and over not in state.record.evaluated


def evaluate_epoch(state: State) -> Todo | None:
    """Computes the outputs after the epoch that is over, and has what they say kept.

    Then the owners for what is left may change.
    """
    if not awaits_evaluation(state):
        return None
    if (todo := evaluate(state)) is not None or state.plan is None:
        return todo
    outputs, score = state.outputs, state.job.score
    if outputs is None or score is None:
        raise RuntimeError("an evaluation needs samples and a score")
    state.outputs = None
    epoch, evaluated, metrics = state.epochs_over, state.record.evaluated, dict(score(outputs))
    evaluated[epoch] = metrics
    best = best_epoch(evaluated)
    kept = state.saved.data if best == epoch else b""
    state.do(KeepEvaluation(evaluated=dict(evaluated), best=best, state=kept))
    state.note("epoch_evaluated", epoch=epoch, best=best, **metrics)
    if state.stops_early and state.job.total_steps > state.saved.step:
        state.note("stopped_early", epoch=epoch, best=best, patience=state.job.patience)
    reconsider(state)
    return None
