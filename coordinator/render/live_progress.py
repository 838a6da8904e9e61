"""Shows live progress on stderr: devices, phase, samples a second, loss."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edge_runtime.contract import messages as m

from .console import cell, counted, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.cluster.host import Host
    from coordinator.protocol.actions import Record
    from coordinator.protocol.record import DeviceRecord
    from coordinator.session.machine import Session
    from edge_runtime.contract.ids import DeviceId
    from edge_runtime.contract.plan import Plan

REFRESH_SECONDS = 0.2
MOST_NAMES = 3


class LiveDisplay:
    """Draws a session's progress with rich: an :class:`Observer`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._session: Session | None = None
        self._host: Host | None = None
        self._began = self._phase_began = self._drawn = 0.0
        self._phase = ""

    def prepared(self, lines: int, truncated: int) -> None:
        """Says what was read."""
        cut = f", {truncated} of them cut" if truncated else ""
        say(self._console, f"{counted(lines, 'line')} of data{cut}")

    def note(self, text: str) -> None:
        """Prints it."""
        say(self._console, text, style="yellow")

    def started(self, session: Session, host: Host) -> None:
        """Starts drawing."""
        self._session, self._host = session, host
        self._began = self._phase_began = time.monotonic()
        for warning in host.local.warnings if host.local else ():
            self.note(warning)
        if host.local and host.local.dilation > 1:
            say(
                self._console,
                "the emulated devices need more than this machine has: everything runs "
                f"{host.local.dilation:.1f}x slower than on the real ones",
            )
        self._live = Live(console=self._console, refresh_per_second=5, transient=True)
        self._live.start()

    def event(self, record: Record) -> None:
        """Prints what should stay on the screen."""
        from .event_lines import line_of

        if (line := line_of(record)) is not None:
            text, style = line
            say(self._console, text, style=style)

    def tick(self) -> None:
        """Redraws, if it is time."""
        now = time.monotonic()
        if self._live is None or self._session is None or now - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = now
        if self._session.phase != self._phase:
            self._phase, self._phase_began = self._session.phase, now
        self._live.update(self._draw(self._session, now))

    def computed(self, done: int, total: int) -> None:
        """Draws a line, if it is time and the work takes longer than people notice."""
        now = time.monotonic()
        if self._live is None:
            self._began = self._drawn = now
            self._live = Live(console=self._console, refresh_per_second=5, transient=True)
        if now - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = now
        self._live.start()
        text = Text(f"computing  {now - self._began:.0f} s  {done} of {total}", style="bold")
        bar = ProgressBar(total=max(1, total), completed=done, width=60)
        self._live.update(Group(text, bar))

    def stopped(self) -> None:
        """Clears the drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, session: Session, now: float) -> RenderableType:
        devices = Table(box=None)
        devices.add_column("device", no_wrap=True)
        for column in ("roles", "blocks", "shards", "batches", "ms/batch", "condition"):
            devices.add_column(column)
        for name, seen in session.record.devices.items():
            part = _part(session.record.plan, name, seen)
            roles, condition = cell(", ".join(seen.roles)), cell(_condition(seen))
            devices.add_row(cell(name), roles, *part, condition)
        head = Text(f"{session.phase}  {now - self._began:.0f} s", style="bold")
        return Group(head, self._progress(session, now), devices)

    def _progress(self, session: Session, now: float) -> RenderableType:
        record = session.record
        if session.phase == "filling":
            done, total = record.stored, record.to_store
            pace = done / max(1e-3, now - self._phase_began)
            text = f"{done} of {total} samples cached, {pace:.0f} samples/s"
            text += _left(total - done, pace)
        elif session.phase == "training" and record.epochs:
            epoch, total = record.epochs[-1], len(session.job.tables["train"])
            done = epoch.sums.samples
            pace = max(0, done - epoch.resumed) / max(1e-3, now - epoch.began)
            loss = epoch.train_loss
            text = f"epoch {epoch.epoch} of {session.job.options.epochs}: {done} of {total} samples"
            if done:
                text += f", {pace:.0f} samples/s, loss {loss:.4f}"
            if record.rest is not None:
                said, seconds = record.rest
                text += _left(seconds - (now - said), 1.0)
            else:
                text += _left(total * (session.job.options.epochs - epoch.epoch + 1) - done, pace)
        elif session.phase == "generating" and (texts := record.generation) is not None:
            done, total = texts.finished, len(texts.tokens)
            pace = texts.written / max(1e-3, now - texts.began)
            text = f"{done} of {total} texts, {texts.written} tokens, {pace:.1f} tokens/s"
        else:
            return Text(_awaited(session))
        return Group(Text(text), ProgressBar(total=max(1, total), completed=done, width=60))


WORDS: dict[type[m.Message], str] = {
    m.ProfileRequest: "measuring",
    m.Peers: "connecting to the others",
    m.ProbeLink: "measuring a link",
    m.OpenCache: "looking into the cache",
    m.LoadStage: "loading the stage",
    m.OwnSamples: "making the cache durable",
    m.HoldSamples: "holding samples",
    m.SetUpTraining: "making the adapter",
    m.SetUpGeneration: "getting ready to write",
    m.TakeState: "taking the adapter's state over",
    m.CountTokens: "counting likely tokens",
    m.FormGroup: "joining the group of trainers",
    m.SendState: "sending the adapter's state",
    m.Evaluate: "computing outputs",
    m.TrainEpoch: "training",
}


def _awaited(session: Session) -> str:
    """Says whom the session waits for, and what they do."""
    if session.phase == "gathering":
        absent = [name for name in session.job.devices if name not in session.devices]
        return f"waiting for {_listed(absent)} to join" if absent else ""
    by_work: dict[str, list[str]] = {}
    for device, kinds in session.asked.items():
        for kind in kinds:
            if kind in WORDS:
                by_work.setdefault(WORDS[kind], []).append(device)
    return "; ".join(f"waiting for {_listed(who)}: {work}" for work, who in by_work.items())


def _listed(names: Sequence[str]) -> str:
    if len(names) > MOST_NAMES:
        return f"{len(names)} devices"
    return " and ".join(names)


def _left(todo: float, pace: float) -> str:
    """Time that is left at that pace, once there is one."""
    if pace <= 0 or todo <= 0:
        return ""
    seconds = todo / pace
    time_left = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f", about {time_left} left"


def _condition(seen: DeviceRecord) -> str:
    """What the newest heartbeat says, e.g. ``62 % charging, 48 °C, 310 MB``."""
    now, said = seen.condition, []
    if now.battery is not None:
        said.append(f"{now.battery:.0%}".replace("%", " %") + (" charging" * bool(now.charging)))
    if now.celsius is not None:
        said.append(f"{now.celsius:.0f} °C")
    if now.resident_bytes is not None:
        said.append(f"{now.resident_bytes / 1e6:.0f} MB")
    return ", ".join(said)


def _part(plan: Plan | None, name: DeviceId, seen: DeviceRecord) -> tuple[str, str, str, str]:
    if plan is None:
        return "", "", "", ""
    stage = plan.stage_of(name)
    blocks = f"{stage.first}..{stage.last - 1}" if stage else "-"
    each = 1000 * seen.served_seconds / seen.served_batches if seen.served_batches else 0.0
    pace = f"{each:.1f}" if each else "-"
    return blocks, str(len(plan.shards_of(name)) or "-"), str(seen.served_batches), pace
