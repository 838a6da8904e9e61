"""Reads and writes a RUN folder: settings, events, plan, checkpoints, adapter and report."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any, TypeVar

from coordinator.data import FieldNames
from coordinator.protocol.actions import KeepEvaluation, Record
from coordinator.protocol.job import Keep
from edge_runtime import __version__
from edge_runtime.contract.adapter import AdapterConfig, AdapterKind, Loss, Schedule
from edge_runtime.contract.errors import BadInputError, StorageError
from edge_runtime.contract.messages import CacheDtype
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.structure import from_plain, to_plain
from edge_runtime.transport.files import make_private_directory, open_private, write_private

from .checkpoints import Checkpoint as Checkpoint
from .checkpoints import Checkpoints
from .evaluations import EvaluationFiles, Evaluations

T = TypeVar("T")

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_GRAPH = "adapter.onnx"
CHECKSUMS = "checksums.json"

_NOT_COMPARED = ("bundle", "cache_quota_bytes", "encrypt_cache", "chats")
_FILES = {
    "bundle_digest": "contents of the bundle",
    "data_sha256": "training data (--data)",
    "eval_sha256": "evaluation data (--eval)",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that decide a run's result; a resumed run must be given the same.

    Where the bundle is, the quota and whether caches are encrypted may change; later commands
    use them. ``eval_sha256`` is empty without evaluation, ``learning_rate`` the peak,
    ``cache_quota_bytes`` per device, ``held_out`` the fraction of the training data that is
    evaluated on instead, ``max_length`` the most tokens of a line, if that is not what the model
    takes, ``loss`` a language model's; runs from before there was a choice have the exact one, and
    kept their last epoch. ``keep`` and ``patience`` are as :class:`.Job` has them.
    ``tune`` counts the settings that are compared, of which those given here are the first.
    ``chats`` tells whether a language model was trained on chats, so that a text to answer is what
    a user says; runs from before it was kept do not say so.
    """

    bundle: str
    bundle_digest: str
    data_sha256: str
    eval_sha256: str
    fields: FieldNames
    task: str
    adapter: AdapterKind
    adapter_layers: tuple[int, ...]
    adapter_heads: int
    adapter_init: str
    reduction: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    cache_dtype: CacheDtype
    cache_quota_bytes: int | None = None
    encrypt_cache: bool = False
    max_length: int | None = None
    held_out: float | None = None
    loss: Loss = "exact"
    adapter_seed: int | None = None
    tune: int | None = None
    weight_decay: float | None = None
    schedule: Schedule = "linear"
    keep: Keep = "last"
    patience: int = 0
    chats: bool = False


class RunFolder:
    """Reads and writes the files of a run; every file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, settings: Settings) -> RunFolder:
        """Makes a new run folder; raises BadInputError if it is not empty or cannot be made."""
        check_new(path)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be made: {error.strerror}") from None
        run = cls(path)
        run._write_json("run.json", to_plain(settings))
        return run

    @classmethod
    def resume(cls, path: Path, settings: Settings) -> RunFolder:
        """Opens a run that stopped; a cache quota and encryption may be given anew.

        Raises:
            BadInputError: no such run, it is finished, or it was started differently.
        """
        run = cls(path)
        started, now = run.settings(), to_plain(settings)
        if (path / "report.json").exists():
            raise BadInputError(f"{path}: this run is finished; start a new one with another -o")
        before = to_plain(started)
        for name in {**before, **now}:
            if name not in _NOT_COMPARED and now.get(name) != before.get(name):
                difference = _difference(name, before.get(name), now.get(name))
                raise BadInputError(
                    f"{path}: was started with {difference}; "
                    "resume with the same, or start a new run with another -o"
                )
        quota = settings.cache_quota_bytes
        changed = dataclasses.replace(
            started,
            cache_quota_bytes=started.cache_quota_bytes if quota is None else quota,
            encrypt_cache=started.encrypt_cache or settings.encrypt_cache,
        )
        if changed != started:
            run._write_json("run.json", to_plain(changed))
        return run

    def settings(self) -> Settings:
        """Reads what the run was started with; raises BadInputError if the folder is no run."""
        return self._read(Settings, "run.json")

    @property
    def is_planned(self) -> bool:
        """True once there is something to go on with."""
        return (self.path / "plan.json").exists()

    def discard_unplanned(self) -> None:
        """Removes a new run that failed before it had a plan: there is nothing to go on with."""
        if self.is_planned:
            return
        for name in ("run.json", "events.jsonl"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: something there is not ours
            self.path.rmdir()

    def record(self, record: Record) -> None:
        """Appends one line to ``events.jsonl``."""
        event = {"time": time.time(), "event": record.event, **record.fields}
        line = json.dumps(finite(event), allow_nan=False)
        append_whole(self.path / "events.jsonl", line.encode() + b"\n")

    def last_group(self) -> str:
        """Reads the name of the group that trained last; empty if none has."""
        try:
            lines = (self.path / "events.jsonl").read_bytes().splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            if b'"group_formed"' in line:
                with contextlib.suppress(ValueError):  # torn, as the machine lost its power
                    return str(json.loads(line)["run"])
        return ""

    def write_plan(self, plan: Plan) -> None:
        """Writes ``plan.json``."""
        self._write_json("plan.json", to_plain(plan))

    def write_report(self, report: dict[str, Any]) -> None:
        """Writes ``report.json``: the run is finished. What is no number becomes null."""
        self._write_json("report.json", finite(report))

    def write_adapter(self, config: AdapterConfig, weights: bytes) -> None:
        """Writes ``adapter/``; raises BadInputError for weights that are not the adapter's."""
        from export.adapter.graph import adapter_onnx

        graph = adapter_onnx(config, weights)
        folder = self.path / "adapter"
        write_private(folder / WEIGHTS, weights)
        write_private(folder / ADAPTER_GRAPH, graph)
        self._write_json(f"adapter/{CONFIG}", to_plain(config))
        self._write_json(f"adapter/{CHECKSUMS}", self._checksums())

    def read_adapter(self) -> tuple[AdapterConfig, bytes]:
        """Reads configuration and weights of the trained adapter.

        Raises:
            BadInputError: the run has not got so far, or a file is damaged.
        """
        if not (self.path / "adapter" / CONFIG).exists() and (self.path / "run.json").exists():
            raise BadInputError(
                f"{self.path}: its training is not finished; give the same `pacplus train` again "
                "with --resume"
            )
        config, weights = self._read(AdapterConfig, f"adapter/{CONFIG}"), f"adapter/{WEIGHTS}"
        try:
            return config, (self.path / weights).read_bytes()
        except OSError:
            raise BadInputError(f"{self.path / weights}: cannot be read") from None

    def read_adapter_graph(self) -> tuple[AdapterConfig, bytes]:
        """Reads like :meth:`read_adapter`, but the weights' ONNX form.

        It is made anew, in half a second, unless it is known to be of these weights, which count.
        """
        config, weights = self.read_adapter()
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((self.path / "adapter" / CHECKSUMS).read_bytes())
            if said == self._checksums():
                return config, (self.path / "adapter" / ADAPTER_GRAPH).read_bytes()
        from export.adapter.graph import adapter_onnx

        return config, adapter_onnx(config, weights)

    def _checksums(self) -> dict[str, str]:
        """SHA-256 of the adapter's files, and the version that wrote the graph."""
        names = (CONFIG, WEIGHTS, ADAPTER_GRAPH)
        files = {name: (self.path / "adapter" / name).read_bytes() for name in names}
        found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        return {"pacplus": __version__, **found}

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, see :meth:`.Checkpoints.write`; the one before is kept."""
        Checkpoints(self.path).write(checkpoint)

    def last_checkpoint(self) -> Checkpoint | None:
        """Reads the newest checkpoint that is whole, see :meth:`.Checkpoints.last`."""
        return Checkpoints(self.path).last()

    def keep_evaluation(self, kept: KeepEvaluation) -> None:
        """Keeps what epochs are worth, see :meth:`.EvaluationFiles.write`."""
        EvaluationFiles(self.path).write(kept.evaluated, kept.best, kept.state)

    def evaluations(self) -> Evaluations:
        """Reads what epochs are worth, see :meth:`.EvaluationFiles.read`."""
        return EvaluationFiles(self.path).read()

    def _write_json(self, name: str, value: Any) -> None:
        write_private(self.path / name, (json.dumps(value, indent=1) + "\n").encode())

    def _read(self, cls: type[T], name: str) -> T:
        path = self.path / name
        try:
            plain = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise BadInputError(
                f"{path}: is missing; give the -o folder of a `pacplus train` that has got so far"
            ) from None
        except (OSError, ValueError) as error:
            raise BadInputError(f"{path}: cannot be read: {error}") from None
        return from_plain(cls, plain, str(path))


def append_whole(path: Path, content: bytes) -> None:
    """Appends all of ``content`` or nothing.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        with open(path, "ab", buffering=0, opener=open_private) as file:
            before = file.tell()
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON does not have, by None in plain values."""
    return json.loads(json.dumps(value), parse_constant=lambda _name: None)


def check_new(path: Path) -> None:
    """Raises BadInputError if ``path`` exists and is not an empty folder, or cannot be one."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be used: {error.strerror}") from None
    if taken:
        begun = (path / "run.json").exists() and not (path / "report.json").exists()
        helps = ", or go on with --resume" if begun else ""
        raise BadInputError(f"{path}: exists and is not empty; choose another -o{helps}")
    if path.is_dir():
        make_private_directory(path)


def _difference(name: str, before: object, now: object) -> str:
    """Says what a run was started with; a digest would say nothing to the user."""
    if name in _FILES:
        return f"other {_FILES[name]}"
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in before if before[key] != now.get(key))
        return _difference(f"{name} {key}", before[key], now.get(key))
    return f"{name} {str(before)[:40]}, not {str(now)[:40]}"
