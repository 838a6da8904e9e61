"""The goals of a session, in order: the first one that lacks something is the phase. Pure.

Every goal is a function of the state that says what is missing, as requests to devices, or None
if nothing is. What has been reached is passed, so that nothing has to remember where a session
was: when a device is lost, facts disappear, and the first goal that then lacks something is
worked on::

    gather          every expected device said hello                          gathering
    measure         every device measured itself                              profiling
    admit           data sockets admit the peers                              admitting
    link            links are measured, in rounds of disjoint pairs           linking
    refine          whose times could change the plan measured them better    profiling
    plan            there is a plan                                           waiting, if not
    open_caches     trainers said what their caches hold; shards get owners   open_caches
    fill_first      owners hold the training samples               deploying, filling
    own_first       they know them and made them durable                      commit_cache
                    (both again for evaluation samples)
    set_up          trainers made the adapter                                 setting up
    synchronize     all of them have the newest state                         setting up
    evaluate_before outputs before training                                   evaluating
    tune            where settings are tried: the best one is trained       training
    evaluate_epoch  an epoch that is over is evaluated, if it is to be: before it, fill and
                    own of evaluation samples after a loss    filling, evaluating
    next_part       samples of the next steps are readable: see below         filling
    count_tokens    before the first update: how likely tokens are          training
    train           the group has formed and applied the steps of a part      training
    save            the coordinator has the state; with the last part, passed training
    fill, own       after a loss amid training: the evaluation samples
    evaluate_after  outputs after training; where epochs are evaluated,
                    neither this nor the two before                           evaluating
    collect         final usage of every device                               collecting

Once training has begun, ``fill_first`` and ``own_first`` have nothing to say: what a lost device
held is computed part by part, as ``next_part`` needs it, and so is in every epoch what the disks
have no room for.

Where prompts are continued, stages are loaded instead of ``fill`` and ``own``, and ``generate``
stands in the place of ``synchronize`` to ``evaluate_after``.
"""

from collections.abc import Callable
from functools import partial

from coordinator.session.questions import Ask, Todo
from coordinator.session.state import State
from edge_runtime.contract import messages as m

from . import epoch_ends, filling, generating, measuring, planning, training, tuning

Goal = Callable[[State], Todo | None]


def collect(state: State) -> Todo | None:
    """Asks every device what it has used in all."""
    state.collecting = True
    begin = partial(m.BeginPhase, phase="eval")
    asks = {
        device: Ask(kind=m.BeginPhase, make=begin, key="final", of_plan=False)
        for device, member in state.members.here.items()
        if not member.collected
    }
    return Todo("collecting", asks) if asks else None


_PLANNED: tuple[Goal, ...] = (
    measuring.gather,
    measuring.measure,
    measuring.admit,
    measuring.link,
    measuring.refine,
    planning.plan,
    planning.open_caches,
)
_CACHED: tuple[Goal, ...] = (
    partial(filling.fill_first, "train"),
    partial(filling.own_first, "train"),
    partial(filling.fill_first, "eval"),
    partial(filling.own_first, "eval"),
    training.set_up,
    training.synchronize,
    training.evaluate_before,
    tuning.tune,
    epoch_ends.at_end(partial(filling.fill, "eval")),
    epoch_ends.at_end(partial(filling.own, "eval")),
    epoch_ends.evaluate_epoch,
    training.next_part,
    partial(filling.own, "train"),
    training.count_tokens,
    training.train,
    training.save,
)
_EVALUATED: tuple[Goal, ...] = (
    partial(filling.fill, "eval"),
    partial(filling.own, "eval"),
    training.evaluate_after,
)
_CONTINUED: tuple[Goal, ...] = (generating.load, training.set_up, generating.generate)


def of(state: State) -> tuple[Goal, ...]:
    """Lists the goals of a session; at its end nothing else matters any more."""
    job = state.job
    if state.collecting:
        return (collect,)
    if job.only_plan:
        return (*_PLANNED, collect)
    if job.continuation is not None:
        return (*_PLANNED, *_CONTINUED, collect)
    last = () if job.evaluates_epochs else _EVALUATED  # or else the last epoch's are known by then
    return (*_PLANNED, *_CACHED, *last, collect)
