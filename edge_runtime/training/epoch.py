"""Trains steps of an epoch. Of the adapter, whole applied steps only are ever to be seen."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, TypeAlias

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import settled
from edge_runtime.contract.errors import RemoteError, UnresumableError
from edge_runtime.contract.order import epoch_order, step_sizes, steps_per_epoch
from edge_runtime.messaging.outbox import Outbox
from edge_runtime.system.allocator import trim

from .allreduce import AllReduce, Contribution
from .batch_reader import BatchReader
from .line_candidates import LineCandidates
from .replica import Replica
from .samples import OwnedSamples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_runtime.parallel_adapters import PackedBatch, Trainer

    Batches: TypeAlias = Iterator[tuple[m.Array, PackedBatch]]

PROGRESS_SECONDS = 0.25


def train_steps(
    request: m.TrainEpoch,
    replica: Replica,
    owned: OwnedSamples,
    group: AllReduce,
    outbox: Outbox,
    lines: LineCandidates | None = None,
) -> None:
    """Trains the steps that are asked for and says what the epoch has come to.

    With ``lines``, by a loss over candidates.

    Raises:
        RemoteError: the adapter or the group is at another step.
        AllReduceClosedError: the term or the session ended; ``replica`` is as after the last
            step that was applied.
        UnresumableError: training diverges.
    """
    steps = _steps(request, replica, owned, group)
    if request.first_step == 0:
        replica.sums = m.EpochSums(epoch=request.epoch)
    began, reported, own_seconds = time.monotonic(), -math.inf, 0.0
    own = [chosen for chosen, _ in steps]
    with BatchReader(owned, own) as reader:
        for number, (chosen, size) in enumerate(steps):
            batches = reader.step(number)
            own_seconds += _step(replica, owned, batches, (len(chosen), size), group, lines)
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                outbox.to_coordinator(m.Progress(sums=replica.sums))
    if not replica.trainer.finite:
        raise _diverged("adapter", replica)
    seconds = time.monotonic() - began
    found = lines.take_found() if lines is not None else 0
    trim()  # what steps take, writing and sending the state takes in other pieces
    outbox.to_coordinator(
        m.EpochDone(
            sums=replica.sums, seconds=seconds, own_seconds=min(own_seconds, seconds), found=found
        )
    )


def _steps(
    request: m.TrainEpoch, replica: Replica, owned: OwnedSamples, group: AllReduce
) -> list[tuple[m.Array, int]]:
    """This trainer's samples of each step that is asked for, and how many all have together."""
    options, trainer = replica.options, replica.trainer
    owned.check_for(replica.config)
    whole = steps_per_epoch(owned.request.total, options.batch_size)
    first, last = request.first_step, whole
    if request.num_steps is not None:
        last = first + request.num_steps
    if request.epoch < 1 or not 0 <= first <= last <= whole:
        raise RemoteError(f"epoch {request.epoch} has no steps {first} to {last} of {whole}")
    wanted = (request.epoch - 1) * whole + first
    if not trainer.step == group.step == wanted:
        raise RemoteError(
            f"the adapter is at step {trainer.step} and its group at {group.step}, not {wanted}"
        )
    if first and (replica.sums.epoch, replica.sums.steps) != (request.epoch, first):
        raise RemoteError(
            f"the sums are of step {replica.sums.steps} of epoch {replica.sums.epoch}, not of "
            f"step {first} of epoch {request.epoch}"
        )
    total, which = owned.request.total, {"seed": options.seed, "epoch": request.epoch}
    order = epoch_order(
        owned.request.ranks,
        owned.tokens,
        num_samples=total,
        batch_size=options.batch_size,
        **which,
    )
    sizes = step_sizes(total, options.batch_size, **which).tolist()
    return list(zip(order, sizes, strict=True))[first:last]


def _step(
    replica: Replica,
    owned: OwnedSamples,
    batches: Batches,
    sizes: tuple[int, int],
    group: AllReduce,
    lines: LineCandidates | None,
) -> float:
    """Applies one update.

    Args:
        replica: the adapter.
        owned: this trainer's samples.
        batches: those of the step.
        sizes: how many these are, and how many all trainers have together.
        group: all trainers.
        lines: candidates, where the loss is over them.

    Returns:
        Seconds that it took without what the trainers do together.
    """
    trainer, sums = replica.trainer, replica.sums
    samples, size = sizes
    began = time.monotonic()
    own = _sum_gradients(trainer, owned, batches, samples, lines)
    ended = time.monotonic()
    if not math.isfinite(own.loss_sum):
        raise _diverged("loss", replica)
    gradient = trainer.flat_gradient
    # Of language models' samples, a step's may be cut before anything that counts.
    try:
        total = group.reduce(gradient, own, size)
        summed = time.monotonic()
        trainer.apply(gradient, max(1, total.count))
    except UnresumableError:
        raise _diverged("gradient", replica) from None
    replica.sums = m.EpochSums(
        epoch=sums.epoch,
        steps=sums.steps + 1,
        samples=sums.samples + total.samples,
        count=sums.count + total.count,
        loss_sum=sums.loss_sum + total.loss_sum,
    )
    return time.monotonic() - summed + ended - began


def _sum_gradients(
    trainer: Trainer,
    owned: OwnedSamples,
    batches: Batches,
    samples: int,
    lines: LineCandidates | None,
) -> Contribution:
    """The samples' loss; ``trainer.flat_gradient`` has its gradient."""
    loss, count, write = 0.0, 0, trainer.gradients
    for piece, batch in batches:
        if lines is not None:
            batch = lines.add(owned.request.keys[piece], batch)
        loss += write(batch)
        count += batch.count
        write = trainer.add_gradients
        del batch  # before the next one comes
    if not count:
        trainer.flat_gradient.fill(0)
    return Contribution(samples=samples, count=count, loss_sum=loss)


def _diverged(what: str, replica: Replica) -> UnresumableError:
    if not replica.trainer.step:
        return UnresumableError(
            f"the {what} is not a finite number before anything is learnt: the backbone's hidden "
            "states are too large; export the model again with another --quantize"
        )
    rate, epoch = settled(replica.options, replica.config).peak, replica.sums.epoch
    return UnresumableError(
        f"the {what} is not a finite number in epoch {epoch}: the learning rate of {rate:g} is too "
        "high; train a new run with a lower --learning-rate"
    )
