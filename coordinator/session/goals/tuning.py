"""The goal of a tuning: settings are trained side by side, and the best one is known. Pure.

One owner has all samples. It is asked to train all settings up to the next stop, then those that
are left; what it has come to is nowhere else, so that a tuning which is interrupted begins again.
After it, the best state is the session's, as if it had been trained alone.
"""

from collections.abc import Iterator
from functools import partial

from coordinator.session.questions import Ask, Todo
from coordinator.session.state import SavedState, State
from coordinator.session.value_checks import check_state, step_of
from coordinator.tuning.race import Race, Reached, Stop, stops
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import DeviceFailedError, InfeasibleError
from edge_runtime.contract.held_out import HeldOut
from edge_runtime.contract.ids import DeviceId

from .training import begin_epoch, count_tokens, set_up


def tune(state: State) -> Todo | None:
    """Has the owner train the settings that are left up to the next stop.

    Raises:
        InfeasibleError: several devices own samples, or one has no room for them.
    """
    if not state.job.settings or state.setting is not None:
        return None
    if (todo := count_tokens(state)) is not None:
        return todo
    race, owner = _race(state), _owner(state)
    if (stop := race.next) is None:
        _choose(state, race)
        return set_up(state)
    state.target = stop.step
    begin_epoch(state, _epoch(state, stop))
    ask = Ask(
        kind=m.TrainSettings,
        make=partial(_request, state, race, stop),
        key=(stop.step, race.left),
    )
    return Todo("training", {owner: ask})


def _race(state: State) -> Race:
    """The race of this term; what was trained in an earlier one is lost."""
    race, job = state.record.race, state.job
    if race is None or state.race_term != state.term:
        count = len(job.settings)
        found = stops(count, job.options.epochs, job.steps_per_epoch)
        state.record.race = race = Race(settings=count, stops=found)
        state.race_term, state.race_sums = state.term, {}
        state.record.epochs.clear()
        state.note("tuning_began", settings=count, stops=[each.step for each in found])
    return race


def _owner(state: State) -> DeviceId:
    owners = state.owners
    if len(owners) != 1:
        raise InfeasibleError(
            f"--tune trains on one device, and the plan has {len(owners)} that train: name one "
            "alone, or leave --plan out"
        )
    held = state.holdings.held()[owners[0]]
    if not all(held[lines].all() for lines in state.catalogue.distinct.values()):
        raise InfeasibleError(
            f"{owners[0]}: has no room for all samples, which --tune needs; free some of its disk, "
            "raise --cache-quota, or use a smaller --cache-dtype"
        )
    return owners[0]


def _epoch(state: State, stop: Stop) -> int:
    return (stop.step - 1) // state.job.steps_per_epoch + 1


def _request(state: State, race: Race, stop: Stop) -> m.TrainSettings:
    epoch = _epoch(state, stop)
    return m.TrainSettings(
        settings=tuple(state.job.settings[number] for number in race.left),
        epoch=epoch,
        first_step=race.step - (epoch - 1) * state.job.steps_per_epoch,
        num_steps=stop.step - race.step,
        total_steps=state.job.total_steps,
        token_counts=state.token_counts if not race.step else None,
        sends_state=stop.ends_epoch,
    )


def keep_settings(state: State, device: DeviceId, _: Ask, message: m.SettingsTrained) -> None:
    """Keeps what the settings have come to at a stop, and the state of the best so far.

    Raises:
        DeviceFailedError: it is of other settings, samples or another step.
        UnresumableError: no setting's numbers are finite.
    """
    race = _race(state)
    stop, numbers = race.next, race.left
    if stop is None or len(message.sums) != len(numbers):
        raise DeviceFailedError(f"{device}: answered for other settings than asked")
    worth = dict(zip(numbers, _held_out(state, device, message), strict=True))
    sums = dict(zip(numbers, message.sums, strict=True))
    for number, each in worth.items():
        if each.finite and step_of(state.job, device, sums[number]) != stop.step:
            raise DeviceFailedError(f"{device}: trained to another step than it was asked to")
    reached = Reached(
        stop=stop,
        worth=worth,
        seconds=dict(zip(numbers, message.seconds.tolist(), strict=True)),
        shared_seconds=message.shared_seconds,
    )
    state.record.race = race = race.after(reached)
    left = race.left
    state.note(
        "settings_trained",
        step=stop.step,
        losses={number: each.loss for number, each in worth.items()},
        accuracies={number: each.accuracy for number, each in worth.items()},
        best=min(worth, key=lambda number: worth[number].rank),
        left=list(left),
    )
    state.progressed(device)
    if not stop.ends_epoch:
        return
    epoch = state.record.epochs[-1]
    epoch.seconds = state.now - epoch.began
    for number, of_epoch in sums.items():
        if worth[number].finite:
            state.race_sums[number, epoch.epoch] = of_epoch
    if race.best[1] == stop.step:
        data = message.state.tobytes()
        check_state(device, data, b"")
        state.raced = SavedState(data=data, step=stop.step, sums=sums[race.best[0]])
        state.raced_parameters = int(message.parameters[numbers.index(race.best[0])])


def _held_out(state: State, device: DeviceId, message: m.SettingsTrained) -> Iterator[HeldOut]:
    """What each setting comes to, as the metrics of an evaluation would say it.

    Raises:
        DeviceFailedError: more samples are correct than there are.
    """
    classes = state.job.config.task == "classification"
    count = len(state.job.tables["eval"]) if classes else 0
    if (most := int(message.correct.max())) > count:
        raise DeviceFailedError(
            f"{device}: says that {most} of {count} held-out samples with classes are right"
        )
    for loss, correct in zip(message.losses.tolist(), message.correct.tolist(), strict=True):
        yield HeldOut(loss=loss, accuracy=correct / count if classes else None)


def _choose(state: State, race: Race) -> None:
    """Goes on with the best setting, as if it had been trained alone."""
    number, step = race.best
    if state.raced is None:
        raise RuntimeError("there is no state of the best setting")
    state.setting, state.saved = state.job.settings[number], state.raced
    state.target = step
    state.training_begun = True
    record = state.record
    record.state, record.parameters = state.saved.data, state.raced_parameters
    # A setting that was dropped, or with whom all diverged, has no part in the epochs after that.
    own = [each for each in record.epochs if (number, each.epoch) in state.race_sums]
    for epoch in own:
        epoch.sums = state.race_sums[number, epoch.epoch]
    record.epochs[:] = own
    for device in state.owners:
        state.members.here[device].replica = None
    state.lineage = ""
    state.note("setting_chosen", setting=number, step=step)
