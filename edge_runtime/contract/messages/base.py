"""What all messages share."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

import numpy as np

from edge_runtime.contract.manifest import FileSpec, InputSpec

Array: TypeAlias = np.ndarray[Any, Any]
CacheDtype = Literal["fp32", "fp16", "int8"]
Phase = Literal["start", "profile", "fill", "train", "eval"]
SampleSet = Literal["train", "eval"]


class Message:
    """Base of all messages; carries no data."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageFiles:
    """A stage graph and the weight files that it refers to by base name."""

    first: int
    last: int
    inputs: tuple[InputSpec, ...]
    graph: Array
    exact_graph: Array
    files: tuple[FileSpec, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(f"stage [{self.first}, {self.last}) is empty")
