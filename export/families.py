"""What differs between the model families that can be exported.

A new family is a new row; the passes, the cutter and the runtime know none by name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import InputSpec, Task


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How to export a ``model_type`` of transformers.

    Attributes:
        tasks: what its hidden states can be used for.
        token_types: the model reads ``token_type_ids``.
        positions_after_padding: positions count from ``pad_token_id + 1`` (RoBERTa), which
            takes that many entries off the position table.
        load_options: arguments of ``AutoModel.from_pretrained``.
    """

    tasks: tuple[Task, ...] = ("classification", "regression")
    token_types: bool = False
    positions_after_padding: bool = False
    load_options: dict[str, Any] = dataclasses.field(default_factory=dict)


# The pooler reads the last hidden state only and is no part of the backbone.
_NO_POOLER = {"add_pooling_layer": False}

FAMILIES = {
    "bert": Family(token_types=True, load_options=_NO_POOLER),
    "roberta": Family(positions_after_padding=True, load_options=_NO_POOLER),
    "distilbert": Family(),
}


def family_of(model_type: str, where: str) -> Family:
    """The family's row.

    Raises:
        BadInputError: the architecture is not supported; names those that are.
    """
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise BadInputError(
            f"{where}: architecture {model_type!r} is not supported; supported are {supported}"
        )
    return FAMILIES[model_type]


def check_task(task: Task, model_type: str, family: Family) -> None:
    """Refuses a task that the family cannot do.

    Raises:
        UsageError: names the tasks that it can.
    """
    if task not in family.tasks:
        raise UsageError(
            f"--task {task}: a {model_type} model can do {' or '.join(family.tasks)} only"
        )


def input_specs(config: Any, family: Family) -> tuple[InputSpec, ...]:
    """The graph's inputs, the mask last."""
    pad = getattr(config, "pad_token_id", None) or 0
    specs = [InputSpec(name="input_ids", dtype="int64", kind="tokens", pad=pad)]
    if family.token_types:
        specs.append(InputSpec(name="token_type_ids", dtype="int64", kind="tokens"))
    specs.append(InputSpec(name="attention_mask", dtype="int64", kind="mask"))
    return tuple(specs)


def position_limit(config: Any, family: Family) -> int:
    """The longest sequence, in tokens, that the position table allows."""
    positions = int(config.max_position_embeddings)
    return positions - (config.pad_token_id + 1) if family.positions_after_padding else positions
