"""Checks devices' answers against the requests, and keeps them."""

import numpy as np

from coordinator.protocol.job import Job
from coordinator.protocol.record import SessionRecord
from coordinator.samples.samples import Catalogue
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import DeviceFailedError, InfeasibleError, StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import DeviceProfile

from .link_schedule import Linking
from .value_checks import check_link, check_loss, check_profile, check_state, not_finite

LANGUAGE_OUTPUTS = 3
"""Of a sample: summed loss, counted tokens, correctly predicted tokens."""


class Answers:
    """Keeps answers.

    Attributes:
        profiles: measured, by device.
        linking: links that are measured.
        held: (K,) bool by device: distinct samples in its cache.
        outputs: (N, C) float64 of the evaluation lines, NaN where not known yet.
    """

    def __init__(self, job: Job, catalogue: Catalogue, record: SessionRecord) -> None:
        self._job, self._catalogue, self._record = job, catalogue, record
        self.profiles: dict[DeviceId, DeviceProfile] = {}
        self.linking = Linking(job.devices)
        self.held: dict[DeviceId, Array] = {}
        self.outputs: Array = np.zeros((0, 0), np.float32)

    def linked_profiles(self) -> dict[DeviceId, DeviceProfile]:
        """Adds every device's link to its profile, from now on."""
        self.profiles = self.linking.linked(self.profiles)
        for device, profile in self.profiles.items():
            self._record.devices[device].profile = profile
        return self.profiles

    def expect_outputs(self) -> None:
        """Forgets the outputs of an earlier evaluation."""
        config, lines = self._job.config, len(self._job.tables["eval"])
        columns = LANGUAGE_OUTPUTS if config.generative else config.num_outputs
        self.outputs = np.full((lines, columns), np.nan)

    def fits(
        self, device: DeviceId, message: m.Message, *, which: m.SampleSet | None, epoch: int
    ) -> bool:
        """Checks that a message of the right type answers the request.

        ``which`` and ``epoch`` are the data set and the epoch in work.
        """
        plan = self._record.plan
        match message:
            case m.StageReady():
                stage = plan.stage_of(device) if plan else None
                asked = (stage.first, stage.last) if stage else None
                return (message.first, message.last) == asked
            case m.LinkMeasured():
                return self.linking.fits(device, message)
            case m.SamplesReady():
                return message.which == which
            case m.EpochDone():
                return message.epoch == epoch
            case _:
                return True

    def keep(self, device: DeviceId, message: m.Message) -> None:
        """Keeps what an answer says.

        Raises:
            DeviceFailedError: it says what cannot be.
            UnresumableError: a loss, an output or a weight is not finite.
            StoppedError: samples are gone from its cache.
            InfeasibleError: the device's cache is too small for its samples.
        """
        match message:
            case m.ProfileDone(profile=profile):
                roles = self._record.devices[device].roles
                check_profile(device, profile, self._job.manifest, roles)
                self.profiles[device] = profile
            case m.LinkMeasured():
                check_link(device, message)
                self.linking.keep(device, message)
            case m.CacheStatus():
                if message.held.shape != (len(self._catalogue.keys),):
                    raise DeviceFailedError(f"{device}: answered for other samples than asked")
                self.held[device] = message.held.astype(bool)
            case m.SamplesReady():
                self._keep_samples(device, message)
            case m.EpochDone():
                check_loss(device, message.loss_sum)
            case m.Outputs():
                self._keep_outputs(device, message)
            case m.TrainerState():
                state = message.data.tobytes()
                check_state(device, state, self._record.state or self._job.state)
                self._record.state = state
            case _:
                pass
        self._record.observe(device, message)

    def _keep_samples(self, device: DeviceId, message: m.SamplesReady) -> None:
        missing = message.missing.size
        if not missing:
            return
        if self._job.cache_quota_bytes is None:
            raise StoppedError(f"{device}: {missing} samples did not stay in its cache")
        advice = "give fewer lines at a time (the quota is that of the training run)"
        if "train" in self._job.tables:
            advice = "raise --cache-quota, or use a smaller --cache-dtype"
        raise InfeasibleError(
            f"{device}: the cache quota leaves no room for {missing} of its samples; {advice}"
        )

    def _keep_outputs(self, device: DeviceId, message: m.Outputs) -> None:
        indices, plan = message.indices, self._record.plan
        owned = self._job.tables["eval"].owned_by(plan, device) if plan else np.zeros(0)
        right = indices.dtype.kind in "iu" and np.array_equal(np.sort(indices), owned)
        if not right or message.outputs.shape[1] != self.outputs.shape[1]:
            raise DeviceFailedError(f"{device}: sent outputs for other samples than its own")
        if not np.isfinite(message.outputs).all():
            raise not_finite(device, "adapter's output")
        self.outputs[indices] = message.outputs
