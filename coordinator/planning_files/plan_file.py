"""A plan from a file: what ``pacplus plan --json`` printed, or ``plan.json`` of a run."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from coordinator.planner import Problem, evaluate, make_plan
from coordinator.planner.search.feasibility import find_lacks
from edge_runtime.contract.errors import BadInputError, InfeasibleError
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.structure import from_plain


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GivenPlan:
    """A plan that was read, and where from."""

    path: Path
    plan: Plan

    def adopt(self, problem: Problem) -> Plan:
        """The plan for what was measured now, with predictions of now.

        Raises:
            BadInputError: it is for another bundle, other devices or another batch size; the
                message names the field.
            InfeasibleError: it does not fit the devices; the message says who lacks what.
        """
        self._check_shape(problem)
        self._check_devices(problem)
        predicted = evaluate(problem, self.plan)
        # What a disk has no room for is computed again in each epoch.
        lacks = [
            each for each in find_lacks(problem, self.plan, predicted) if each.what == "memory"
        ]
        if lacks:
            raise InfeasibleError(
                f"{self.path}: does not fit: {'; '.join(map(str, lacks))}; "
                "leave --plan out to have a plan made that does"
            )
        return dataclasses.replace(self.plan, predicted=predicted)

    def first(self) -> Callable[[Problem], Plan]:
        """Makes what decides: this plan, and the best one when devices that it needs are lost."""
        begun = False

        def decide(problem: Problem) -> Plan:
            nonlocal begun
            if begun:
                with contextlib.suppress(BadInputError, InfeasibleError):
                    return self.adopt(problem)
                return make_plan(problem)
            plan = self.adopt(problem)
            begun = True
            return plan

        return decide

    def _check_shape(self, problem: Problem) -> None:
        if self.plan.num_blocks != problem.num_blocks:
            raise self._wrong(
                "stages",
                f"cover {self.plan.num_blocks} blocks, but the adapter reads "
                f"{problem.num_blocks} of this bundle's",
            )
        if self.plan.num_shards != problem.batch_size:
            raise self._wrong(
                "num_shards",
                f"is {self.plan.num_shards}, but --batch-size is {problem.batch_size}; "
                "they must be the same",
            )

    def _check_devices(self, problem: Problem) -> None:
        profiles = {profile.device: profile for profile in problem.profiles}
        there = ", ".join(profiles)
        for number, stage in enumerate(self.plan.stages):
            for member in stage.devices:
                profile = profiles.get(member.device)
                where = f"stages[{number}].devices"
                if profile is None:
                    raise self._wrong(where, f"{member.device!r} is not there; there are: {there}")
                if "backbone" not in profile.roles:
                    raise self._wrong(where, f"{member.device} runs no backbone stages")
        for number, owner in enumerate(self.plan.owners):
            profile, where = profiles.get(owner.device), f"owners[{number}].device"
            if profile is None:
                raise self._wrong(where, f"{owner.device!r} is not there; there are: {there}")
            if profile.trainer is None:
                raise self._wrong(where, f"{owner.device} cannot train")

    def _wrong(self, field: str, problem: str) -> BadInputError:
        return BadInputError(f"{self.path}.{field}: {problem}")


_FIELDS = frozenset(field.name for field in dataclasses.fields(Plan))


def read_plan(path: Path) -> GivenPlan:
    """Reads a plan; what else the object holds, such as its alternatives, is left aside.

    Raises:
        BadInputError: there is no such file, or it holds no plan; the message names the field.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, Mapping):
        raise BadInputError(f"{path}: expected an object with stages and owners")
    # Predictions are made anew, so old ones do not matter.
    kept = {name: item for name, item in value.items() if name in _FIELDS - {"predicted"}}
    return GivenPlan(path=path, plan=from_plain(Plan, kept, str(path)))
