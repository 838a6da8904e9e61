"""Records what a session has seen, for the report and the live display."""

import dataclasses
from collections.abc import Mapping

from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile, Role

MAX_NOTICES = 20
"""Kinds of notices of a device that are kept; a hostile one may send any number."""

FURTHER_NOTICES = "further notices"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Work of a device as it was predicted, and as it came."""

    predicted_seconds: float
    seconds: float


@dataclasses.dataclass(slots=True)
class DeviceRecord:
    """One device's part; ``condition`` is its newest heartbeat, ``compared`` by phase."""

    roles: tuple[Role, ...]
    condition: m.Heartbeat = dataclasses.field(default_factory=m.Heartbeat)
    profile: DeviceProfile | None = None
    usage: m.Usage | None = None
    served_batches: int = 0
    served_seconds: float = 0.0
    received_weight_bytes: int = 0
    cache_bytes: int = 0
    cache_samples: int = 0
    compared: dict[str, Compared] = dataclasses.field(default_factory=dict)
    notices: dict[str, int] = dataclasses.field(default_factory=dict)

    def observe(self, message: m.Message) -> None:
        """Takes down what a message says of the device."""
        match message:
            case m.Heartbeat():
                self.condition = message
            case m.BatchServed():
                self.served_batches += 1
                self.served_seconds += message.seconds
            case m.Usage():
                self.usage = message
            case m.ProfileDone():
                self.profile = message.profile
            case m.StageReady():
                self.received_weight_bytes = message.received_bytes
            case m.SamplesReady():
                self.cache_bytes = message.cache_bytes
                self.cache_samples = message.cache_samples
            case _:
                pass

    def take_notice(self, text: str) -> bool:
        """Counts a notice; true if it is the first of its kind, which are ``MAX_NOTICES``."""
        if text not in self.notices and len(self.notices) >= MAX_NOTICES:
            text = FURTHER_NOTICES
        self.notices[text] = self.notices.get(text, 0) + 1
        return self.notices[text] == 1


@dataclasses.dataclass(slots=True)
class FillRecord:
    """The fill of one data set; samples are distinct ones.

    Attributes:
        began: when.
        samples: of the data set.
        reused: that some device had cached already.
        computed: by the backbone; each counts once, though it may be computed again.
        tokens: of those.
        seconds: for that.
    """

    began: float
    samples: int
    reused: int
    computed: int
    tokens: int
    seconds: float = 0.0


@dataclasses.dataclass(slots=True)
class EpochRecord:
    """One adapter epoch, over all trainers, which began in a ``term``.

    ``resumed`` counts samples of earlier sessions.
    """

    epoch: int
    began: float
    seconds: float = 0.0
    sums: m.EpochSums = m.NOTHING_SUMMED
    resumed: int = 0
    term: int = 0

    @property
    def train_loss(self) -> float:
        """Mean loss of a sample or counted token, at the step in which it was trained on."""
        return self.sums.loss_sum / max(1, self.sums.count)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A plan ended before its time, and the session went on.

    Attributes:
        term: that began.
        reason: why.
        device: that left, joined or is to blame; empty where none is.
        seconds: until work went on.
        computed_again: samples that the backbone had to compute once more.
    """

    term: int
    reason: str
    device: str
    seconds: float
    computed_again: int = 0


@dataclasses.dataclass(slots=True)
class GenerationRecord:
    """Texts that are written.

    Attributes:
        began: when.
        tokens: of each text so far, without the one that ended it.
        ended: texts that have.
        seconds: until the last token.
    """

    began: float
    tokens: list[list[int]]
    ended: set[int] = dataclasses.field(default_factory=set)
    seconds: float = 0.0

    @property
    def finished(self) -> int:
        """Texts that have ended."""
        return len(self.ended)

    @property
    def written(self) -> int:
        """Tokens so far."""
        return sum(map(len, self.tokens))


@dataclasses.dataclass(slots=True)
class SessionRecord:
    """Everything a report needs.

    ``rest`` is when what seconds of training were still to come, ``evaluated`` has the metrics of
    epochs on evaluation samples, those of earlier sessions of the run included.
    """

    plan: Plan | None = None
    devices: dict[DeviceId, DeviceRecord] = dataclasses.field(default_factory=dict)
    fills: dict[m.SampleSet, FillRecord] = dataclasses.field(default_factory=dict)
    stored: int = 0
    to_store: int = 0
    epochs: list[EpochRecord] = dataclasses.field(default_factory=list)
    rest: tuple[float, float] | None = None
    parameters: int = 0
    state: bytes = b""
    recoveries: list[Recovery] = dataclasses.field(default_factory=list)
    outputs_before: Array | None = None
    outputs_after: Array | None = None
    evaluated: dict[int, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    generation: GenerationRecord | None = None

    def welcome(self, device: DeviceId, roles: tuple[Role, ...]) -> None:
        """Begins the record of a device, or goes on with it when it comes back."""
        self.devices.setdefault(device, DeviceRecord(roles=roles))

    def observe(self, device: DeviceId, message: m.Message) -> None:
        """Takes down what a message says of a device or of the run."""
        self.devices[device].observe(message)
        match message:
            case m.TrainingReady():
                self.parameters = message.parameters
            case _:
                pass
