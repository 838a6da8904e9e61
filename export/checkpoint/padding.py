"""Chooses the id that fills up batches."""

from pathlib import Path
from typing import Any

from edge_runtime.contract.errors import BadInputError

from .families import Family


def mend_padding(where: Path, config: Any, family: Family) -> tuple[str, ...]:
    """Replaces a ``pad_token_id`` without an embedding by 0: masks keep padding out anyway.

    Returns:
        What to tell people, one line each.

    Raises:
        BadInputError: positions count from that id (RoBERTa), so it cannot be another.
    """
    pad, size = getattr(config, "pad_token_id", None), config.vocab_size
    if family.positions_after_padding and (pad is None or not 0 <= pad < size):
        raise BadInputError(
            f"{where}: pad_token_id is {pad}, but must be one of the {size} ids of the vocabulary: "
            f"positions of a {config.model_type} model count from it; set the one that the model "
            "was trained with (usually 1)"
        )
    if pad is None or -size <= pad < size:
        return ()
    config.pad_token_id = 0
    return (
        f"pad_token_id {pad} has no embedding (there are {size}): batches are padded with id 0, "
        "which masks hide from the model",
    )
