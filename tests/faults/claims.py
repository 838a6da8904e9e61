"""What must hold at the end of every history."""

import math

import numpy as np

from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId
from tests.coordinator.session.fakes.replica import Replica
from tests.coordinator.session.fakes.trainer import output_of
from tests.coordinator.session.scenarios import sums_of
from tests.faults.generating import GeneratingLaboratory, check_texts
from tests.faults.laboratory import Laboratory
from tests.faults.tuning import TuningLaboratory, check_tuning


def check_end(lab: Laboratory) -> None:
    """The run has the result of an undisturbed one, and each step was applied once."""
    if isinstance(lab, GeneratingLaboratory):
        check_texts(lab)
    elif isinstance(lab, TuningLaboratory):
        check_tuning(lab)
    else:
        _check_training(lab)
    check_quarantine(lab)
    if lab.chance.random() < 0.25:  # it takes as long as all the rest
        lab.check_replay()


def _check_training(lab: Laboratory) -> None:
    job, record = lab.job, lab.session.record
    state = record.state or job.state
    steps, epochs = job.steps_per_epoch, lab.world.last_epoch
    assert Replica.parse(state) == lab.reference[epochs * steps], (
        "another final state than that of an undisturbed run"
    )
    tiled = [(epoch, step) for epoch, first, last in lab.applied for step in range(first, last)]
    assert tiled == [(e, s) for e in range(1, epochs + 1) for s in range(steps)], lab.applied
    for epoch in record.epochs:
        if epoch.sums.steps == steps:
            wanted = sums_of(job, epoch.epoch)
            assert math.isclose(epoch.sums.loss_sum, wanted.loss_sum), "other losses"
            assert (epoch.sums.samples, epoch.sums.count) == (wanted.samples, wanted.count)
    for outputs, done in ((record.outputs_before, 0), (record.outputs_after, epochs)):
        if outputs is not None:
            expected = [output_of(line, done) for line in range(len(outputs))]
            assert np.array_equal(outputs[:, :2], expected), "other outputs than undisturbed"
    if job.evaluates_epochs:
        _check_best(lab, epochs)
    if "eval" in job.tables:
        known = record.outputs_after is not None or job.evaluates_epochs
        assert known, "no outputs"
        assert record.outputs_before is not None or not job.evaluate_before, "no outputs before"


def _check_best(lab: Laboratory, epochs: int) -> None:
    """Every epoch was evaluated once, and the best of them is kept, whatever failed."""
    losses = lab.world.losses
    told = [event.fields["epoch"] for event in lab.events if event.event == "epoch_evaluated"]
    assert told == list(range(1, epochs + 1)), f"evaluated: {told}"
    last, best = lab.evaluations[-1], lab.world.best_epoch(epochs)
    assert last.best == best, f"epoch {last.best} is said to be the best, not {best}"
    assert last.evaluated == {e: {"loss": losses[e - 1]} for e in range(1, epochs + 1)}
    kept = Replica.parse(lab.best_state)
    assert kept == lab.reference[best * lab.job.steps_per_epoch], "another adapter than the best"


def check_quarantine(lab: Laboratory) -> None:
    """Only who was to blame, or hung and failed again and again, is left out."""
    for name in lab.session.state.members.quarantined:
        assert lab.liars[name] + lab.offences[name] >= 2, f"{name} is innocent: {_why(lab, name)}"


def check_failure(lab: Laboratory) -> None:
    """A session ends early only if all that it has left is a device that does not work."""
    error = lab.failure
    assert error is not None
    if isinstance(error, InfeasibleError) and lab.session.record.plan is None:
        return  # too few came for a first plan
    offended = sum(lab.liars.values()) + sum(lab.offences.values())
    assert lab.alone, f"{type(error).__name__} though others are left: {error}"
    assert offended, f"{type(error).__name__} without a reason: {error}"
    check_quarantine(lab)
    lab.check_replay()


def _why(lab: Laboratory, name: DeviceId) -> str:
    return lab.session.state.members.quarantined[name]
