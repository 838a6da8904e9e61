"""Records what a session has seen, for the report and the live display."""

import dataclasses

from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

MAX_NOTICES = 20
"""Kinds of notices of a device that are kept; a hostile one may send any number."""

FURTHER_NOTICES = "further notices"


@dataclasses.dataclass(slots=True)
class DeviceRecord:
    """One device's part.

    ``condition`` is its newest heartbeat; ``relief`` why it asks to be relieved, if it does.
    """

    roles: tuple[str, ...]
    condition: m.Heartbeat = dataclasses.field(default_factory=m.Heartbeat)
    relief: str = ""
    profile: DeviceProfile | None = None
    usage: m.Usage | None = None
    served_batches: int = 0
    served_seconds: float = 0.0
    received_weight_bytes: int = 0
    cache_bytes: int = 0
    cache_samples: int = 0
    progress: m.Progress | None = None
    notices: dict[str, int] = dataclasses.field(default_factory=dict)

    def observe(self, message: m.Message) -> None:
        """Takes down what a message says of the device."""
        match message:
            case m.Heartbeat():
                self.condition = message
            case m.Relief():
                self.relief = message.reason
            case m.BatchServed():
                self.served_batches += 1
                self.served_seconds += message.seconds
            case m.Progress():
                self.progress = message
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
    """The fill of one data set; samples are distinct ones."""

    began: float
    samples: int
    computed: int
    tokens: int
    seconds: float = 0.0

    @property
    def reused(self) -> int:
        """Samples that some device had cached already."""
        return self.samples - self.computed


@dataclasses.dataclass(slots=True)
class EpochRecord:
    """One adapter epoch, summed over the trainers."""

    epoch: int
    began: float
    seconds: float = 0.0
    samples: int = 0
    count: int = 0
    loss_sum: float = 0.0

    def add(self, done: m.EpochDone) -> None:
        """Adds one trainer's part."""
        self.samples += done.samples
        self.count += done.count
        self.loss_sum += done.loss_sum

    @property
    def train_loss(self) -> float:
        """Mean loss of a sample or counted token, at the step in which it was trained on."""
        return self.loss_sum / max(1, self.count)


@dataclasses.dataclass(slots=True)
class GenerationRecord:
    """Texts that are written.

    Attributes:
        began: when.
        tokens: of each text so far, without the one that ended it.
        finished: texts that have ended.
        seconds: until the last token.
    """

    began: float
    tokens: list[list[int]]
    finished: int = 0
    seconds: float = 0.0

    @property
    def written(self) -> int:
        """Tokens so far."""
        return sum(map(len, self.tokens))


@dataclasses.dataclass(slots=True)
class SessionRecord:
    """Everything a report needs."""

    plan: Plan | None = None
    devices: dict[DeviceId, DeviceRecord] = dataclasses.field(default_factory=dict)
    fills: dict[m.SampleSet, FillRecord] = dataclasses.field(default_factory=dict)
    stored: int = 0
    to_store: int = 0
    epochs: list[EpochRecord] = dataclasses.field(default_factory=list)
    parameters: int = 0
    state: bytes = b""
    outputs_before: Array | None = None
    outputs_after: Array | None = None
    generation: GenerationRecord | None = None

    def observe(self, device: DeviceId, message: m.Message) -> None:
        """Takes down what a message says of a device or of the run."""
        self.devices[device].observe(message)
        match message:
            case m.TrainingReady():
                self.parameters = message.parameters
            case m.EpochDone():
                self.epochs[-1].add(message)
            case _:
                pass
