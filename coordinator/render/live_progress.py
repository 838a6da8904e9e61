"""Live progress on stderr: devices, phase, samples a second, loss."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coordinator.cluster.host import Host
from coordinator.protocol.actions import Record
from coordinator.protocol.record import DeviceRecord
from coordinator.session.machine import Session

from .console import cell, say

REFRESH_SECONDS = 0.2


class LiveDisplay:
    """A observer that draws with rich."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._session: Session | None = None
        self._host: Host | None = None
        self._began = self._phase_began = self._drawn = 0.0
        self._phase = ""

    def prepared(self, lines: int, truncated: int) -> None:
        """Says what was read."""
        say(self._console, f"{lines} lines of data")
        if truncated:
            self.note(
                f"{truncated} texts are longer than the model's max_length and were truncated"
            )

    def note(self, text: str) -> None:
        """Prints it."""
        say(self._console, text, style="yellow")

    def started(self, session: Session, host: Host) -> None:
        """Starts drawing."""
        self._session, self._host = session, host
        self._began = self._phase_began = time.monotonic()
        local = host.local
        for warning in local.warnings if local else ():
            say(self._console, warning, style="yellow")
        if local and local.dilation > 1:
            say(
                self._console,
                f"the emulated devices need more than this machine has: "
                f"everything runs {local.dilation:.1f}x slower than on the real ones",
            )
        self._live = Live(console=self._console, refresh_per_second=5, transient=True)
        self._live.start()

    def event(self, record: Record) -> None:
        """Prints what should stay on the screen."""
        fields = record.fields
        if record.event == "fill_finished":
            say(
                self._console,
                f"fill: {fields['computed']} samples computed, {fields['reused']} reused "
                f"from the cache, {fields['seconds']:.1f} s",
            )
        elif record.event == "epoch_finished":
            say(
                self._console,
                f"epoch {fields['epoch']}: loss {fields['train_loss']:.4f}, "
                f"{fields['seconds']:.1f} s",
            )
        elif record.event == "generation_finished":
            pace = fields["tokens"] / max(1e-3, fields["seconds"])
            say(
                self._console,
                f"{fields['tokens']} tokens in {fields['seconds']:.1f} s, {pace:.1f} tokens/s",
            )
        elif record.event == "device_lost":
            text = f"{fields['device']} was lost: {fields['reason']}"
            say(self._console, text, style="red")
        elif record.event in ("rebalanced", "device_off_pace"):
            say(self._console, _off_pace(fields), style="yellow")

    def tick(self) -> None:
        """Redraws, if it is time."""
        now = time.monotonic()
        if self._live is None or self._session is None or now - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = now
        if self._session.phase != self._phase:
            self._phase, self._phase_began = self._session.phase, now
        self._live.update(self._draw(self._session, now))

    def stopped(self) -> None:
        """Clears the drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, session: Session, now: float) -> RenderableType:
        devices = Table(box=None)
        devices.add_column("device", no_wrap=True)
        for column in ("roles", "blocks", "shards", "batches", "ms/batch"):
            devices.add_column(column)
        for name, seen in session.record.devices.items():
            devices.add_row(cell(name), cell(", ".join(seen.roles)), *_part(session, name, seen))
        head = Text(f"{session.phase}  {now - self._began:.0f} s", style="bold")
        return Group(head, self._progress(session, now), devices)

    def _progress(self, session: Session, now: float) -> RenderableType:
        record = session.record
        if session.phase == "filling":
            done, total = record.stored, record.to_store
            elapsed = max(1e-3, now - self._phase_began)
            text = f"{done} of {total} samples cached, {done / elapsed:.0f} samples/s"
        elif session.phase == "training" and record.epochs:
            epoch = record.epochs[-1].epoch
            parts = [
                seen.progress
                for seen in record.devices.values()
                if seen.progress and seen.progress.epoch == epoch
            ]
            done, total = sum(part.samples for part in parts), len(session.job.tables["train"])
            elapsed = max(1e-3, now - record.epochs[-1].began)
            loss = sum(part.loss_sum for part in parts) / max(1, sum(part.count for part in parts))
            text = (
                f"epoch {epoch} of {session.job.options.epochs}: {done} of {total} samples, "
                f"{done / elapsed:.0f} samples/s, loss {loss:.4f}"
            )
        elif session.phase == "generating" and record.generation is not None:
            texts = record.generation
            done, total = texts.finished, len(texts.tokens)
            elapsed = max(1e-3, now - texts.began)
            text = (
                f"{done} of {total} texts, {texts.written} tokens, "
                f"{texts.written / elapsed:.1f} tokens/s"
            )
        else:
            return Text("")
        return Group(Text(text), ProgressBar(total=max(1, total), completed=done, width=60))


def _off_pace(fields: Mapping[str, Any]) -> str:
    factor = fields["factor"]
    speed = f"{factor:.1f}x slower" if factor > 1 else f"{1 / factor:.1f}x faster"
    text = f"{fields['device']} is {speed} than it measured itself"
    if "shares" not in fields:
        return text
    shares = ", ".join(f"{device} {share:.0%}" for device, share in fields["shares"].items())
    return f"{text}; stage {fields['stage'] + 1} is shared anew: {shares}"


def _part(session: Session, name: str, seen: DeviceRecord) -> tuple[str, str, str, str]:
    plan = session.record.plan
    if plan is None:
        return "", "", "", ""
    stage = next(
        (stage for stage in plan.stages if any(m.device == name for m in stage.devices)), None
    )
    blocks = f"{stage.first}..{stage.last - 1}" if stage else "-"
    shards = sum(len(owner.shards) for owner in plan.owners if owner.device == name)
    each = 1000 * seen.served_seconds / seen.served_batches if seen.served_batches else 0.0
    return blocks, str(shards or "-"), str(seen.served_batches), f"{each:.1f}" if each else "-"
