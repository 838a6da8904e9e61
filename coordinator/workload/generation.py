"""Continues prompts: groups them, sends each group's next step, and ends them.

A *group* of prompts passes through the pipeline step by step. In a step only new tokens
travel: all of the prompts at first, then the one token that the answering device chose. A
prompt that has ended leaves its group, since stages compute whole sequences anew and would
compute it in vain. A window bounds the groups in work, and thereby what devices hold of
them: window x group x the longest sequence.

Pure: no sockets, no clock.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from coordinator.planner.dispatch import Router
from coordinator.protocol.actions import Send
from coordinator.protocol.job import Job
from coordinator.protocol.record import GenerationRecord
from coordinator.samples.samples import SampleTable
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import DeviceFailedError
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.sample import Ragged

from .work_items import int32_lengths

HELD_BYTES = 64 << 20
"""Most hidden states that a device keeps of sequences in work, if one's are not more."""

FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True, slots=True)
class _Group:
    """Groups prompts that go on together; ``lines`` are those that have not ended.

    Once it has ``begun``, devices hold what is before the newest tokens.
    """

    owner: DeviceId
    route: tuple[DeviceId, ...]
    lines: tuple[int, ...]
    begun: bool = False


@dataclasses.dataclass(slots=True)
class _Pass:
    """One way of a group through the stages of ``route``, so many of which have served it."""

    group: _Group
    route: tuple[DeviceId, ...]
    done: int = 0


class Generation:
    """Keeps the books of all prompts.

    Attributes:
        record: what was written so far.
    """

    def __init__(
        self, job: Job, plan: Plan, now: float, earlier: GenerationRecord | None = None
    ) -> None:
        """Begins at time ``now``, or goes on from what was written under an ``earlier`` plan.

        Raises:
            ValueError: the job has no prompts.
        """
        if job.continuation is None:
            raise ValueError("the job has no prompts")
        task, manifest, table = job.continuation, job.manifest, job.tables["eval"]
        self._task, self._manifest, self._config, self._plan = task, manifest, job.config, plan
        self._prompt_lengths = int32_lengths(task.prompts)
        self._longest = {
            stream: int(each.max()) for stream, each in table.samples.lengths_of.items()
        }
        self._output = manifest.output_stream
        (self._output_input,) = (
            name for name, stream in task.prompts.streams.items() if stream == self._output
        )
        border = manifest.layers_of(self._output).start
        self._encoder_stages = sum(stage.last <= border for stage in plan.stages)
        self._window = len(plan.devices)  # one group for each to work on
        prompts = len(task.prompts)
        self.record = earlier or GenerationRecord(began=now, tokens=[[] for _ in range(prompts)])
        self._waiting = collections.deque(self._groups(table))
        self._in_work: dict[int, _Pass] = {}
        self._number = 0

    @property
    def done(self) -> bool:
        """Every prompt has ended."""
        return not self._waiting and not self._in_work

    def set_up(self) -> m.SetUpGeneration:
        """Makes what tells every device of the plan what is to come."""
        return m.SetUpGeneration(
            options=self._task.options,
            # What has ended may be released after the next has come: other sockets carry it.
            max_sequences=len(self._task.prompts),
            max_rows=self._longest,
        )

    def start(self) -> list[Send]:
        """Groups that may begin now."""
        room = min(len(self._waiting), self._window - len(self._in_work))
        return [self._step(self._waiting.popleft()) for _ in range(room)]

    def chosen(self, device: DeviceId, message: m.NextTokens, now: float) -> list[Send]:
        """Takes the next tokens of a group, at time ``now``.

        Raises:
            DeviceFailedError: nobody asked the device for them, or they are no tokens.
        """
        tokens, lines = message.tokens.tolist(), message.lines.tolist()
        asked = self._in_work.get(message.number)
        group = asked.group if asked is not None else None
        if group is None or (device, tuple(lines)) != (group.owner, group.lines):
            raise DeviceFailedError(
                f"{device}: chose tokens for other prompts than it was asked for"
            )
        if min(tokens) < 0 or max(tokens) >= self._config.num_outputs:
            raise DeviceFailedError(f"{device}: chose a token that the model does not have")
        del self._in_work[message.number]
        over = [line for line, token in zip(lines, tokens, strict=True) if self._write(line, token)]
        self.record.ended.update(over)
        left = tuple(line for line in lines if line not in over)
        self.record.seconds = now - self.record.began
        sends = self._release(group, over) if over else []
        if left:
            sends.append(self._step(dataclasses.replace(group, lines=left, begun=True)))
        return [*sends, *self.start()]

    def served(self, device: DeviceId, message: m.BatchServed) -> None:
        """Takes down that a stage has done its part of a pass."""
        on_way = self._in_work.get(message.number)
        if on_way is not None and on_way.route[message.stage : message.stage + 1] == (device,):
            on_way.done = max(on_way.done, message.stage + 1)

    def late(self) -> DeviceId | None:
        """Names who has had the oldest pass for longest: a stage, or else its owner."""
        for on_way in self._in_work.values():
            return (*on_way.route, on_way.group.owner)[on_way.done]
        return None

    def _write(self, line: int, token: int) -> bool:
        """Appends a token; True if the text ends with it."""
        if token in self._manifest.eos_token_ids:
            return True
        written = self.record.tokens[line]
        written.append(token)
        room = self._manifest.max_length - int(self._prompt_lengths[self._output][line])
        return len(written) >= min(self._task.options.max_new_tokens, room)

    def _release(self, group: _Group, lines: Sequence[int]) -> list[Send]:
        release = m.Release(lines=np.array(lines, np.int32))
        devices = dict.fromkeys((*group.route, group.owner))
        return [Send(device=device, message=release) for device in devices]

    # ---- groups

    def _groups(self, table: SampleTable) -> Iterator[_Group]:
        """Groups prompts of similar length by owner, owners in turn."""
        router, size = Router(self._plan), self._group_size(len(table))
        lengths = self._task.prompts.lengths
        by_owner = []
        for owner in self._plan.owners:
            lines = table.owned_by(self._plan, owner.device)
            lines = lines[~np.isin(lines, list(self.record.ended))]
            lines = lines[np.argsort(lengths[lines], kind="stable")]
            parts = [lines[start : start + size] for start in range(0, len(lines), size)]
            by_owner.append([(owner.device, tuple(part.tolist())) for part in parts])
        for turn in itertools.zip_longest(*by_owner):
            for owner_device, lines in filter(None, turn):
                yield _Group(owner=owner_device, route=router.route(), lines=lines)

    def _group_size(self, prompts: int) -> int:
        """As many as keep the pipeline busy, and as devices have room for."""
        layers = self._config.layers
        rows = sum(self._longest[self._manifest.blocks[layer].stream] for layer in layers)
        each = rows * self._manifest.hidden_size * FLOAT_BYTES
        room = HELD_BYTES // (each * self._window)
        return max(1, min(self._plan.micro_batch_size, -(-prompts // self._window), room))

    def _step(self, group: _Group) -> Send:
        """Makes the group's next pass through the pipeline."""
        self._number += 1
        route = group.route[self._encoder_stages :] if group.begun else group.route
        self._in_work[self._number] = _Pass(group, route)
        lines = np.array(group.lines, np.int32)
        known, lengths = self._known(lines, begins=not group.begun)
        inputs = self._newest(group) if group.begun else self._whole(lines)
        tokens = inputs[self._output_input] if self._config.copies else None
        batch = m.MicroBatch(
            number=self._number,
            route=route,
            keys=self._task.prompts.keys[lines],
            lengths=lengths,
            destinations=(
                m.Destination(device=group.owner, positions=np.arange(len(lines), dtype=np.int32)),
            ),
            sequences=Sequences(lines=lines, known=known, tokens=tokens),
        )
        return Send(device=batch.route[0], message=m.RunBatch(batch=batch, inputs=inputs))

    def _newest(self, group: _Group) -> dict[str, Array]:
        """The token of each text that devices do not have."""
        newest = [self.record.tokens[line][-1] for line in group.lines]
        return {self._output_input: np.array(newest, np.int32)}

    def _whole(self, lines: Array) -> dict[str, Array]:
        """Prompts, and what was written behind them under earlier plans."""
        samples = self._task.prompts.take(lines)
        inputs = {name: ragged.values for name, ragged in samples.inputs.items()}
        if any(self.record.tokens[line] for line in lines):
            begun = samples.inputs[self._output_input]
            rows = [[*begun[i], *self.record.tokens[line]] for i, line in enumerate(lines)]
            inputs[self._output_input] = Ragged.from_rows(rows).values
        return inputs

    def _known(self, lines: Array, *, begins: bool) -> tuple[m.Lengths, m.Lengths]:
        """Rows that devices have, and rows that are new."""
        lengths = {stream: each[lines] for stream, each in self._prompt_lengths.items()}
        written = np.array([len(self.record.tokens[line]) for line in lines], np.int32)
        lengths[self._output] = lengths[self._output] + written
        if begins:
            return {stream: np.zeros_like(each) for stream, each in lengths.items()}, lengths
        known = {**lengths, self._output: lengths[self._output] - np.int32(1)}
        return known, {self._output: np.ones(len(lines), np.int32)}
