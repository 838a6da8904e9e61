"""What a trainer's state has besides the adapter's weights, and which of these are used."""

import numpy as np

from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.tensors import read_tensors, write_tensors

OPTIMIZER_PREFIX = "optimizer."
"""Of what is no weight."""


def check_weights(state: bytes) -> None:
    """Refuses a trainer's state whose weights are not numbers to go on with, or to use.

    Raises:
        UnresumableError: one is infinite or not a number.
        BadInputError: ``state`` is damaged.
    """
    for name, array in read_tensors(state, "trainer state").items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UnresumableError(
                f"{name!r} of the adapter is not finite; train a new run with a lower "
                "--learning-rate"
            )


def adapter_weights(state: bytes) -> bytes:
    """``adapter_model.safetensors`` out of a trainer's state: the weights alone.

    Raises:
        BadInputError: ``state`` is damaged.
    """
    tensors = read_tensors(state, "trainer state")
    return write_tensors(
        {name: array for name, array in tensors.items() if not name.startswith(OPTIMIZER_PREFIX)}
    )
