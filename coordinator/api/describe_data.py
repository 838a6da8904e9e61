"""Describes what would be learnt of data: :func:`describe_data`."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from coordinator.data import (
    Conversations,
    DataFile,
    DataSet,
    FieldNames,
    LanguageData,
    Source,
    form_of_data,
)
from coordinator.data.fields import listed
from coordinator.data.quality import asked, notes_on, questions
from coordinator.tokenization import LanguageTokenizer, SampleTokenizer, decoder_of, keys_to_write
from edge_runtime.contract.checks import Array
from edge_runtime.contract.manifest import Manifest, Task
from edge_runtime.contract.sample import Ragged, Samples
from export.partition.stages import open_bundle

from .adapter_config import task_for
from .max_length import longest_of, note_on_longest
from .reading import check_fields, check_named, guess_task, read_alone

SHOWN_SAMPLES = 3
RANGES = 10
_WHOLE = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens of a sample, as text, that are learnt or only read."""

    text: str
    learnt: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RenderedSample:
    """A sample as the model reads it: where it is from, its text, and its label or value."""

    place: str
    pieces: tuple[Piece, ...]
    label: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LengthRange:
    """Samples whose length is within a range, both ends included."""

    least: int
    greatest: int
    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataDescription:
    """What would be learnt of data.

    Attributes:
        name: of the file.
        sha256: of what was read.
        task: that they are for.
        form: of their lines.
        lines: how many there are.
        samples: how many samples are made of them; 0 without a bundle.
        labels: lines of each class; empty for other tasks.
        unit: of the lengths: tokens, or characters without a bundle.
        lengths: of each sample or line, counted in ranges.
        longest: the greatest of the lengths.
        longest_place: where the first line of that length stands.
        limit: the model's longest sample; 0 without a bundle.
        truncated: samples that are longer.
        duplicates: lines that ask the same as an earlier one.
        notes: what is odd about them.
        rendered: the first samples; none without a bundle.
    """

    name: str
    sha256: str
    task: Task
    form: str
    lines: int
    samples: int = 0
    labels: dict[str, int]
    unit: str
    lengths: tuple[LengthRange, ...]
    longest: int = 0
    longest_place: str = ""
    limit: int = 0
    truncated: int = 0
    duplicates: int
    notes: tuple[str, ...]
    rendered: tuple[RenderedSample, ...] = ()


def describe_data(
    data: Source,
    *,
    bundle: Path | None = None,
    task: Task | None = None,
    fields: FieldNames | None = None,
) -> DataDescription:
    """Reads data as training would, and describes them; trains nothing.

    Args:
        data: a file, or several.
        bundle: whose tokenizer decides about lengths and samples.
        task: what the data are for; by default the bundle's, or what their fields tell.
        fields: other names of the data's fields.

    Raises:
        BadInputError: a file, a line or a field is wrong.
        UsageError: a field's name is wrong.
    """
    manifest = open_bundle(bundle).manifest if bundle is not None else None
    if manifest is not None:
        task = task_for(manifest, task)
    names = fields or FieldNames()
    file, chosen = guess_task(data, task, names)
    names.check(chosen)
    check_named(file, names)
    notes = check_fields(file, chosen, names)
    found = read_alone(file, chosen, names)
    every = questions(found)
    characters = [_characters(each) for each in _written(found)]
    description = DataDescription(
        name=file.name,
        sha256=file.sha256,
        task=chosen,
        form=form_of_data(file.lines, chosen, names),
        lines=len(file.lines),
        labels=_labels(found),
        unit="characters",
        lengths=length_ranges(characters),
        longest=max(characters),
        longest_place=file.lines[characters.index(max(characters))].place,
        duplicates=len(every) - len(set(every)),
        notes=(*notes, *notes_on(found, file.name)),
    )
    if bundle is None or manifest is None:
        return dataclasses.replace(description, notes=(*description.notes, *_on_keys(found, file)))
    return _tokenized(description, found, bundle, manifest, file)


def _on_keys(found: DataSet | LanguageData, file: DataFile) -> Iterator[str]:
    """Notes what of chats only a chat template can say whether it is read."""
    if not isinstance(found, Conversations):
        return
    chats = found.conversations
    keys = {key: None for chat in chats for _, key in keys_to_write(chat, chat.messages)}
    if keys:
        yield (
            f"{file.name}: whether the model's chat template reads {listed(keys)} of these chats "
            "is not known without a bundle; give --bundle"
        )


def _labels(found: DataSet | LanguageData) -> dict[str, int]:
    if not isinstance(found, DataSet):
        return {}
    counts = collections.Counter(found.targets.tolist())
    return {label: counts[index] for index, label in enumerate(found.labels)}


def _written(found: DataSet | LanguageData) -> Sequence[object]:
    """What people wrote on each line; of chats, the contents of their messages."""
    if isinstance(found, Conversations):
        return [
            tuple(each.get("content") or "" for each in c.messages) for c in found.conversations
        ]
    return asked(found)


def _characters(written: object) -> int:
    if isinstance(written, str):
        return len(written)
    if isinstance(written, tuple | list):
        return sum(map(_characters, written))
    return _characters(written["text"]) if isinstance(written, dict) else 0


def length_ranges(lengths: Sequence[int]) -> tuple[LengthRange, ...]:
    """Counts lengths in at most :data:`RANGES` ranges, each wider than the last by a factor."""
    low, high = max(min(lengths), 1), max(*lengths, 1)
    factor = (high / low) ** (1 / RANGES)
    inner = (math.ceil(low * factor**i) for i in range(1, RANGES))
    edges = sorted({min(lengths), *inner, high + 1})
    counts, _ = np.histogram(lengths, edges)
    return tuple(
        LengthRange(least=least, greatest=after - 1, count=count)
        for (least, after), count in zip(itertools.pairwise(edges), counts.tolist(), strict=True)
        if count
    )


def _tokenized(
    description: DataDescription,
    found: DataSet | LanguageData,
    bundle: Path,
    manifest: Manifest,
    file: DataFile,
) -> DataDescription:
    whole = dataclasses.replace(manifest, max_length=_WHOLE)
    notes = list(description.notes)
    decode = decoder_of(bundle)
    if isinstance(found, DataSet):
        texts, pairs = found.inputs.texts, found.inputs.pairs
        samples = SampleTokenizer(bundle, whole).encode(texts, pairs).samples
        lines = np.arange(len(samples))
        pieces = [
            _read_only(samples, row, decode) for row in range(min(len(samples), SHOWN_SAMPLES))
        ]
        labels = [
            found.labels[t] if found.labels else f"{t:.10g}" for t in found.targets[:SHOWN_SAMPLES]
        ]
    else:
        language = LanguageTokenizer(bundle, whole).encode(found, file.name)
        samples, lines = language.samples, language.kept
        notes += language.notes
        shown = range(min(len(samples), SHOWN_SAMPLES))
        pieces = [_learnt(samples, language.targets, row, decode) for row in shown]
        labels = [""] * len(pieces)
    longest = longest_of(samples)
    of_sample = [file.lines[line].place for line in lines.tolist()]
    notes += note_on_longest([(longest, of_sample.__getitem__)])
    rendered = (
        RenderedSample(place=place, pieces=tuple(each), label=label)
        for place, each, label in zip(of_sample, pieces, labels, strict=False)
    )
    return dataclasses.replace(
        description,
        samples=len(samples),
        unit="tokens",
        lengths=length_ranges(longest.tolist()),
        longest=int(longest.max()),
        longest_place=of_sample[int(longest.argmax())],
        limit=manifest.max_length,
        truncated=int((longest > manifest.max_length).sum()),
        notes=tuple(notes),
        rendered=tuple(rendered),
    )


Decode = Callable[[Sequence[int]], str]


def _read_only(samples: Samples, row: int, decode: Decode) -> list[Piece]:
    ids = next(iter(samples.inputs.values()))[row].tolist()
    return [Piece(text=decode(ids), learnt=False)]


def _learnt(samples: Samples, targets: Ragged, row: int, decode: Decode) -> list[Piece]:
    """Splits a sample where learnt tokens begin and end; the target of a token is the next one."""
    inputs = [each[row] for each in samples.inputs.values()]
    if len(inputs) > 1:  # an encoder reads, a decoder writes
        read = Piece(text=decode(inputs[0].tolist()), learnt=False)
        return [read, Piece(text=decode(targets[row].tolist()), learnt=True)]
    counted: Array = np.concatenate([[False], targets[row][:-1] >= 0])
    borders = [0, *(np.flatnonzero(np.diff(counted)) + 1).tolist(), len(counted)]
    ids = inputs[0].tolist()
    return [
        Piece(text=_between(ids, start, end, decode), learnt=bool(counted[start]))
        for start, end in itertools.pairwise(borders)
    ]


def _between(ids: Sequence[int], start: int, end: int, decode: Decode) -> str:
    """Writes some tokens as they stand in the whole: alone, many would lose a blank."""
    before, until = decode(ids[:start]), decode(ids[:end])
    return until[len(before) :] if until.startswith(before) else decode(ids[start:end])
