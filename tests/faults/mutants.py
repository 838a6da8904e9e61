"""Faults put into the session on purpose; the histories must find each of them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from coordinator.protocol.events import Received
from coordinator.session import departures, facts, machine, talk
from coordinator.session.goals import between_epochs, epoch_ends, planning, training, tuning
from coordinator.session.holdings import Holdings
from coordinator.session.members import Member
from coordinator.session.questions import Questions
from coordinator.session.state import State
from coordinator.tuning.race import Race
from coordinator.workload.generation import Generation
from edge_runtime.contract import messages as m

Mutant = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def _at_end_of_plan(change: Callable[[State, dict[str, Any]], None]) -> Iterator[None]:
    """Has ``change`` undo a part of what the end of a plan does."""
    real = planning.end_plan

    def end_plan(state: State, reason: str, device: str = "") -> None:
        before = {"fill": state.fill, "dealer": state.dealer, "term": state.term}
        before["items"] = dict(state.holdings._items)
        real(state, reason, device)
        change(state, before)

    with contextlib.ExitStack() as stack:
        for module in (planning, between_epochs, departures, facts):
            stack.enter_context(mock.patch.object(module, "end_plan", end_plan))
        yield


def leases_are_not_given_back() -> contextlib.AbstractContextManager[Any]:
    """The fill goes on after its plan has ended, with the leases that were out."""

    def keep(state: State, before: dict[str, Any]) -> None:
        state.fill = before["fill"]

    return _at_end_of_plan(keep)


def stored_is_forgotten() -> contextlib.AbstractContextManager[Any]:
    """What was stored of micro-batches of an earlier term does not count."""
    return _at_end_of_plan(lambda state, _: state.holdings._items.clear())


def the_donor_is_the_lowest() -> contextlib.AbstractContextManager[Any]:
    """The trainer that is furthest behind gives its state, not the one that is ahead."""
    return mock.patch.object(training, "max", min, create=True)


def no_term_after_a_lost_peer() -> contextlib.AbstractContextManager[Any]:
    """Two devices that cannot reach each other are only noted."""

    def separate(state: State, device: str, peer: str, reason: str) -> bool:
        with mock.patch.object(departures, "end_plan"):
            return _separate(state, device, peer, reason)

    return mock.patch.object(departures, "separate", separate)


_separate: Any = departures.separate


def answers_match_by_type() -> contextlib.AbstractContextManager[Any]:
    """An answer is taken for that of any open request of its kind."""

    def due(self: Questions, device: str, message: m.Message, reply: int) -> Any:
        for (asked, kind), question in self._open.items():
            if asked == device and m.ANSWER_OF[kind] is type(message):
                return question
        return None

    return mock.patch.object(Questions, "due", due)


@contextlib.contextmanager
def old_terms_count() -> Iterator[None]:
    """Messages of an earlier term are taken for ones of this."""
    real = talk.listen

    def listen(state: State, event: Received) -> bool:
        if 0 < event.term < state.term:
            event = dataclasses.replace(event, term=state.term)
        return real(state, event)

    with mock.patch.object(talk, "listen", listen):
        yield


@contextlib.contextmanager
def replicas_outlive_their_term() -> Iterator[None]:
    """What a trainer said of its adapter in an earlier term is still believed."""

    def end_term(self: Member) -> None:
        self.in_group = self.generates = False

    with mock.patch.object(Member, "end_term", end_term):
        yield


def the_group_keeps_its_name() -> contextlib.AbstractContextManager[Any]:
    """A replica that others have gone on without is taken for one of the group."""
    return mock.patch.object(training, "group_name", lambda state: state.lineage)


def the_lost_still_hold() -> contextlib.AbstractContextManager[Any]:
    """Samples of a device that is gone count as cached."""
    return mock.patch.object(Holdings, "lost")


@contextlib.contextmanager
def joiners_are_not_measured() -> Iterator[None]:
    """As it was: a device that joins while all are settled is never asked for anything."""
    real = machine.Session._join

    def join(self: machine.Session, event: Any) -> bool:
        settled = self.state.settled
        try:
            return real(self, event)
        finally:
            self.state.settled = settled

    with mock.patch.object(machine.Session, "_join", join):
        yield


def states_of_any_step() -> contextlib.AbstractContextManager[Any]:
    """As it was: a state is kept whatever it says of its step and its sums."""
    real = facts._KEEP[m.TrainerState]

    def save(state: State, device: Any, asked: Any, message: Any) -> None:
        with mock.patch.object(facts, "step_of", return_value=message.step):
            real(state, device, dataclasses.replace(asked, key=message.step), message)

    return mock.patch.dict(facts._KEEP, {m.TrainerState: save})


def hangs_in_generation_are_not_found() -> contextlib.AbstractContextManager[Any]:
    """As it was: nobody asks which device a step of a prompt waits for."""
    return mock.patch.object(Generation, "late", return_value=None)


def texts_begin_anew() -> contextlib.AbstractContextManager[Any]:
    """After a loss, devices are given the prompts without what was written behind them."""

    def whole(self: Generation, lines: Any) -> dict[str, Any]:
        inputs = self._task.prompts.take(lines).inputs
        return {name: ragged.values for name, ragged in inputs.items()}

    return mock.patch.object(Generation, "_whole", whole)


def the_newest_epoch_is_the_best() -> contextlib.AbstractContextManager[Any]:
    """The adapter that is kept is that of the last epoch, whatever it is worth."""
    return mock.patch.object(epoch_ends, "best_epoch", max)


def nobody_waits_for_an_evaluation() -> contextlib.AbstractContextManager[Any]:
    """An epoch is evaluated when everything else is done: by then its adapter is gone."""
    real = epoch_ends.awaits_evaluation

    def awaits(state: State) -> bool:
        return real(state) and not state.trains

    return mock.patch.object(epoch_ends, "awaits_evaluation", awaits)


@contextlib.contextmanager
def a_race_goes_on_elsewhere() -> Iterator[None]:
    """What settings have come to in an earlier term counts, though their adapters are gone."""
    real = tuning._race

    def race(state: State) -> Any:
        if state.record.race is not None:
            state.race_term = state.term
        return real(state)

    with mock.patch.object(tuning, "_race", race):
        yield


def the_last_epoch_of_a_setting_is_the_best() -> contextlib.AbstractContextManager[Any]:
    """Of the settings that are left at the end one is kept, whatever it was worth before."""
    best = property(lambda self: (min(self.reached[-1].worth), self.step))
    return mock.patch.object(Race, "best", best)


def a_tuning_chooses_by_loss() -> contextlib.AbstractContextManager[Any]:
    """As it was: it does not look at the accuracy that a training alone is judged by."""

    def best(self: Race) -> tuple[int, int]:
        ends = [each for each in self.reached if each.stop.ends_epoch]
        _, step, number = min(
            (worth.loss, each.stop.step, number)
            for each in ends
            for number, worth in each.worth.items()
        )
        return number, step

    return mock.patch.object(Race, "best", property(best))


def whoever_goes_ends_the_plan() -> contextlib.AbstractContextManager[Any]:
    """A device that has nothing to do any more makes all others begin again."""
    return mock.patch.object(departures, "_matters", lambda state, _: state.plan is not None)


MUTANTS: dict[str, Mutant] = {
    mutant.__name__: mutant
    for mutant in (
        leases_are_not_given_back,
        stored_is_forgotten,
        the_donor_is_the_lowest,
        no_term_after_a_lost_peer,
        answers_match_by_type,
        old_terms_count,
        replicas_outlive_their_term,
        the_group_keeps_its_name,
        the_lost_still_hold,
        joiners_are_not_measured,
        states_of_any_step,
        hangs_in_generation_are_not_found,
        texts_begin_anew,
        the_newest_epoch_is_the_best,
        nobody_waits_for_an_evaluation,
        a_race_goes_on_elsewhere,
        the_last_epoch_of_a_setting_is_the_best,
        a_tuning_chooses_by_loss,
        whoever_goes_ends_the_plan,
    )
}
