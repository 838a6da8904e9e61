"""Predicts epochs by shards and by what runs have found of their owners, and nothing else."""

from collections.abc import Mapping, Sequence

from coordinator.planner.problem.calibrate import run_factors
from coordinator.planner.search.owners import number_shards
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import DevicePrediction, Owner, Plan, Prediction
from edge_runtime.contract.profile import DeviceProfile

FINDING_EPOCHS = 3
"""Among which the time for finding candidates is divided."""


class FakeJudge:
    """Each shard takes its owner its factor in seconds; moving a sample takes ``move_seconds``.

    Finding candidates takes all together, of three epochs, what one sample takes its slowest owner.
    """

    def __init__(self, num_shards: int, move_seconds: float = 0.0) -> None:
        self._num_shards, self._move_seconds = num_shards, move_seconds
        self.moved: list[dict[tuple[DeviceId, DeviceId], int]] = []

    def predict(self, profiles: Sequence[DeviceProfile], plan: Plan) -> Prediction:
        factors = {profile.device: run_factors(profile)[1] for profile in profiles}
        seconds = max(factors[owner.device] * len(owner.shards) for owner in plan.owners)
        new = (each.trainer.seconds_per_new_sample for each in profiles if each.trainer)
        seconds += max(new, default=0.0) / FINDING_EPOCHS
        parts = {"compute": seconds, "exchange": 1.0}
        devices = {
            device: DevicePrediction(
                memory_bytes=0,
                storage_bytes=0,
                fill_seconds=0.0,
                epoch_seconds=seconds,
                epoch_parts=parts,
            )
            for device in plan.devices
        }
        return Prediction(
            total_seconds=seconds, fill_seconds=0.0, epoch_seconds=seconds, devices=devices
        )

    def owners(self, profiles: Sequence[DeviceProfile]) -> Sequence[tuple[Owner, ...]]:
        """Every one alone, and all of them with each of the shards where it is done soonest."""
        factors = {each.device: run_factors(each)[1] for each in profiles if each.trainer}
        dealt = dict.fromkeys(factors, 0)
        for _ in range(self._num_shards):
            dealt[min(dealt, key=lambda name: factors[name] * (dealt[name] + 1))] += 1
        choices = [dealt, *({name: self._num_shards} for name in factors)]
        choices.sort(key=lambda shards: max(factors[name] * n for name, n in shards.items()))
        return [number_shards(shards) for shards in choices]

    def moving_seconds(
        self,
        profiles: Sequence[DeviceProfile],
        plan: Plan,
        moves: Mapping[tuple[DeviceId, DeviceId], int],
        computed: int,
        new: Sequence[DeviceId],
    ) -> float:
        self.moved.append(dict(moves))
        return self._move_seconds * (sum(moves.values()) + computed)
