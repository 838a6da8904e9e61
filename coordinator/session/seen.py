"""Takes down what steps and all-reduces took, and predicts by it what is left. Pure."""

import dataclasses

from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .state import PartDone, State


def trained(state: State, device: DeviceId, steps: int, message: m.EpochDone) -> None:
    """Takes down a trainer's own computing of some steps."""
    profile = state.members.here[device].profile
    if state.plan is None or profile is None:
        return
    owned = len(state.job.tables["train"].owned_by(state.plan, device))
    samples = steps * owned / state.job.steps_per_epoch
    state.found_samples += message.found
    state.experience.trained(profile, steps, samples, message.own_seconds, message.found)
    state.part_done[device] = PartDone(
        steps=steps, seconds=message.seconds, own_seconds=message.own_seconds
    )


def exchanged(state: State) -> None:
    """Takes down what the all-reduces of a part took that all trainers have done.

    The slowest of them waits for nobody: what its steps took besides its own computing is the
    exchange. Steps that are longer than the slowest's usual ones are in it too.
    """
    done, state.part_done = state.part_done, {}
    judge, plan = state.job.judge, state.plan
    steps = {part.steps for part in done.values()}
    if judge is None or plan is None or len(done) < 2 or done.keys() != {*state.owners}:
        return
    if len(steps) > 1 or not all(part.own_seconds for part in done.values()):
        return
    predicted = judge.predict([_unlearnt(each) for each in state.profiles.values()], plan)
    of_epoch = predicted.devices[state.owners[0]].epoch_parts.get("exchange", 0.0)
    count = steps.pop()
    seconds = min(part.seconds - part.own_seconds for part in done.values())
    expected = of_epoch * count / state.job.steps_per_epoch
    state.experience.exchanged(state.owners, count, seconds, expected)


def _unlearnt(profile: DeviceProfile) -> DeviceProfile:
    if profile.trainer is None:
        return profile
    trainer = dataclasses.replace(profile.trainer, exchange_in_run=None)
    return dataclasses.replace(profile, trainer=trainer)


def predict_rest(state: State, moving_seconds: float = 0.0) -> float | None:
    """Predicts the seconds of the epochs that are left, and takes down when that was.

    With ``moving_seconds`` before they begin; None where nothing is predicted.
    """
    seconds = _rest(state)
    if seconds is not None:
        seconds += moving_seconds
    state.record.rest = None if seconds is None else (state.now, seconds)
    return seconds


def _rest(state: State) -> float | None:
    """Predicts by what this run has found of the devices.

    And by how much longer than that the epochs took that it has trained whole under one plan. In
    the first of a session, language models' trainers find candidates besides.
    """
    plan, left, epochs = state.plan, state.job.options.epochs - state.epoch + 1, state.record.epochs
    if plan is None:
        return None
    whole = [each for each in epochs if each.seconds and each.term == state.term]
    whole = [each for each in whole if not each.resumed]
    later = [each for each in whole if not state.found_samples or each is not epochs[0]]
    seconds = [each.seconds for each in later or whole]
    seen = sum(seconds) / len(seconds) if seconds else None
    predicted, finding = _predict_epoch(state, plan)
    if not predicted:
        return None if seen is None else left * seen
    if seen is not None:
        state.epoch_ratio = seen / (predicted if later else predicted + finding)
    return left * predicted * state.epoch_ratio


def _predict_epoch(state: State, plan: Plan) -> tuple[float, float]:
    """Predicts the seconds of an epoch, 0 if nothing does, and of what candidates were found."""
    judge, job = state.job.judge, state.job
    if judge is None:
        return plan.predicted.epoch_seconds if plan.predicted is not None else 0.0, 0.0
    known = [state.experience.learn(profile) for profile in state.profiles.values()]
    alone = judge.predict([_without_finding(each) for each in known], plan).epoch_seconds
    # The judge divides among all epochs what is done once.
    finding = job.options.epochs * (judge.predict(known, plan).epoch_seconds - alone)
    return alone, finding * min(1.0, state.found_samples / len(job.tables["train"]))


def _without_finding(profile: DeviceProfile) -> DeviceProfile:
    if profile.trainer is None:
        return profile
    trainer = dataclasses.replace(profile.trainer, seconds_per_new_sample=0.0)
    return dataclasses.replace(profile, trainer=trainer)
