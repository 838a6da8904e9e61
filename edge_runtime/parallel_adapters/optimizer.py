"""AdamW over the flat buffer, with warm-up, a schedule of the rate, and clipping.

A running mean of the weights is what is evaluated, saved and used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from edge_runtime.contract.errors import BadInputError, UnresumableError

from .flat import FlatParameters, check_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import TrainingOptions

_FIRST, _SECOND, _STEP = "optimizer.first_moment", "optimizer.second_moment", "optimizer.step"


def learning_rate(step: int, total_steps: int, options: TrainingOptions) -> float:
    """Computes the rate of the 0-based ``step``: linear warm-up, then by the schedule.

    Raises:
        ValueError: the options are not settled, see :func:`.settled`.
    """
    warmup_steps = max(1, round(options.warmup_fraction * total_steps))
    rising = (step + 1) / warmup_steps
    falling = (total_steps - step) / max(1, total_steps - warmup_steps + 1)
    if options.schedule == "cosine":
        falling = (1 - math.cos(math.pi * min(1.0, max(0.0, falling)))) / 2
    elif options.schedule == "constant":
        falling = 1.0
    return options.peak * max(0.0, min(rising, falling, 1.0))


def update_average(
    average: torch.Tensor, values: torch.Tensor, updates: int, horizon: float
) -> None:
    """Moves ``average`` towards ``values`` after update number ``updates`` (1 is the first).

    The plain mean of all values at first, an exponential one over ``horizon`` updates
    later (Polyak averaging; Izmailov et al., 2018, for why it generalises better).
    """
    average.lerp_(values, 1 / max(1.0, min(updates, horizon)))


class AdamW:
    """Decoupled weight decay on the side network's matrices (Loshchilov and Hutter, 2019).

    Attributes:
        step: updates applied so far.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        options: TrainingOptions,
        total_steps: int,
    ) -> None:
        """Makes moments of 0; ``options`` are settled, see :func:`.settled`."""
        size = parameters.values.numel()
        self.step = 0
        self._options = options
        self._total_steps = total_steps
        self._size = size
        self._first = torch.zeros(size)
        self._second = torch.zeros(size)
        self._updates = torch.zeros(())  # as the fused kernel wants it
        self._sizes = [parameters.decayed, size - parameters.decayed]
        buffers = (parameters.values, self._first, self._second)
        self._ranges = list(zip(*(torch.split(each, self._sizes) for each in buffers), strict=True))
        self._decays = options.decay, 0.0

    def apply(self, gradient_P: NDArray[np.float32], count: int = 1) -> None:
        """Clips the mean gradient by its norm, in place, and updates the parameters in place.

        Args:
            gradient_P: summed over ``count`` samples or tokens, (P,).
            count: at least 1.

        Raises:
            UnresumableError: the gradient is not finite; nothing was changed.
            ValueError: it is not (P,) float32.
        """
        if gradient_P.shape != (self._size,) or gradient_P.dtype != np.float32:
            raise ValueError(f"a gradient must be float32 of shape {(self._size,)}")
        gradient = torch.from_numpy(gradient_P)
        # A dot product, since PyTorch's norm of a vector is not vectorised.
        norm = math.sqrt(float(torch.dot(gradient, gradient))) / count
        if not math.isfinite(norm):
            raise UnresumableError("the gradient is not finite; lower the learning rate")
        limit = self._options.max_gradient_norm
        factor = (limit / norm if limit and norm > limit else 1) / count
        if factor != 1:  # one pass for the mean and for clipping: P values are megabytes
            gradient_P *= np.float32(factor)
        self._update(gradient)
        self.step += 1

    def _update(self, gradient: torch.Tensor) -> None:
        """Calls the kernel of ``torch.optim.AdamW(fused=True)``.

        The class itself imports PyTorch's compiler when it is made: as long as all the rest of
        PyTorch, and as many megabytes.
        """
        rate = learning_rate(self.step, self._total_steps, self._options)
        parts = torch.split(gradient, self._sizes)
        self._updates += 1
        for (values, first, second), part, decay in zip(
            self._ranges, parts, self._decays, strict=True
        ):
            torch._fused_adamw_(
                *([values], [part], [first], [second], [], [self._updates]),
                lr=rate,
                beta1=0.9,
                beta2=0.999,
                weight_decay=decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, np.ndarray]:
        """Returns moments and counters, as views."""
        counters = [self.step, int(self._updates)]
        return {
            _FIRST: self._first.numpy(),
            _SECOND: self._second.numpy(),
            _STEP: np.array(counters, np.int64),
        }

    def check(self, tensors: dict[str, np.ndarray], where: str, step: int | None) -> None:
        """Checks what :meth:`load` needs, and that ``step`` updates are behind it if given.

        Raises:
            BadInputError: a tensor is missing or of another shape, or the step is another.
        """
        for name in (_FIRST, _SECOND):
            check_tensor(tensors, name, tuple(self._first.shape), np.dtype(np.float32), where)
        check_tensor(tensors, _STEP, (2,), np.dtype(np.int64), where)
        if not 0 <= tensors[_STEP][1] <= tensors[_STEP][0] < 1 << 24:
            raise BadInputError(f"{where}: {_STEP!r} is out of range")
        if step not in (None, found := int(tensors[_STEP][0])):
            raise BadInputError(f"{where}: it has {found} updates behind it, not {step}")

    def load(self, tensors: dict[str, np.ndarray]) -> None:
        """Takes over what :meth:`check` has accepted."""
        np.copyto(self._first.numpy(), tensors[_FIRST])
        np.copyto(self._second.numpy(), tensors[_SECOND])
        self.step, updates = map(int, tensors[_STEP])
        self._updates.fill_(updates)
