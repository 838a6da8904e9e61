"""Notes what in the data is probably not meant. Pure."""

import collections
import json
import math
import unicodedata
from collections.abc import Hashable, Iterator, Mapping, Sequence

from export.chat.conversation import Conversation

from .fields import listed, quoted
from .labelled import DataSet, number_of, plain
from .language import Completions, Conversations, Documents, LanguageData, Transformations

_MANY_NUMBERS = 50
_MISSING = ("nan", "NaN", "None", "null", "NULL", "<NA>", "#N/A")
"""What programs write where they have no value."""
_IF_MISSING = "if that stands for nothing, leave these lines out"


def notes_on(data: DataSet | LanguageData, name: str, *, learning: bool = True) -> list[str]:
    """Notes labels that differ by nothing that is seen, texts without text, and the like.

    Where nothing is learnt of the data, their labels are those of the training: how many lines
    each has, and how they are spelt, is not looked at.
    """
    notes = list(_on_texts(data, name))
    if isinstance(data, DataSet) and data.labels and learning:
        notes += _on_labels(data, name)
    if isinstance(data, DataSet):
        notes += _on_torn(data, name)
    return notes


def notes_on_overlap(
    train: DataSet | LanguageData, evaluation: DataSet | LanguageData, name: str
) -> list[str]:
    """Notes lines that are trained on and evaluated on."""
    known, lines = set(asked(train)), asked(evaluation)
    both = sum(line in known for line in lines)
    if not both:
        return []
    return [
        f"{name}: {both} of {len(lines)} lines to evaluate on are among those to "
        "train on; the metrics will be too good"
    ]


def asked(data: DataSet | LanguageData) -> list[Hashable]:
    """Lists what each line gives to the model, as values that can be compared."""
    if isinstance(data, DataSet):
        pairs = data.inputs.pairs or ("",) * len(data)
        return list(zip(data.inputs.texts, pairs, strict=True))
    if isinstance(data, Documents):
        return list(data.texts)
    if isinstance(data, Completions):
        return list(zip(data.prompts, data.completions, strict=True))
    if isinstance(data, Conversations):
        return [
            json.dumps(chat.messages, sort_keys=True, default=str) for chat in data.conversations
        ]
    return list(data.sources)


def _on_texts(data: DataSet | LanguageData, name: str) -> Iterator[str]:
    for what, texts in _texts(data):
        if empty := sum(not text.strip() for text in texts):
            yield f"{name}: {empty} of {len(texts)} {what} are blank"
        for text, count in collections.Counter(each for each in texts if each in _MISSING).items():
            yield f"{name}: {count} of {len(texts)} {what} are {text!r}; {_IF_MISSING}"


def _texts(data: DataSet | LanguageData) -> Iterator[tuple[str, Sequence[str]]]:
    if isinstance(data, DataSet):
        yield "texts", data.inputs.texts
        yield "second texts", data.inputs.pairs or ()
    elif isinstance(data, Documents):
        yield "texts", data.texts
    elif isinstance(data, Completions):
        yield "completions", data.completions
    elif isinstance(data, Transformations):
        yield "targets", data.targets
    else:
        yield "learnt turns", [turn for chat in data.conversations for turn in _learnt(chat)]


def _learnt(chat: Conversation) -> Iterator[str]:
    for message, learnt in zip(chat.messages, chat.learnt, strict=True):
        content = message.get("content")
        if learnt and isinstance(content, str) and not message.get("tool_calls"):
            yield content


def _on_labels(data: DataSet, name: str) -> Iterator[str]:
    counts = collections.Counter(data.targets.tolist())
    lines = {label: counts[index] for index, label in enumerate(data.labels)}
    yield from _on_alike(lines, name)
    for label in data.labels:
        if label in _MISSING:
            yield f"{name}: {lines[label]} labels are {label!r}; {_IF_MISSING}"
    if none := [label for label in data.labels if not lines[label]]:
        yield f"{name}: {len(none)} labels have no line to train on: {listed(none)}"
    if single := [label for label in data.labels if lines[label] == 1]:
        yield f"{name}: {len(single)} labels have one line only: {listed(single)}"
    numbers = sum(math.isfinite(number_of(label)) for label in data.labels)
    if numbers == len(data.labels) > _MANY_NUMBERS and 2 * numbers > len(data):
        yield (
            f"{name}: has {numbers} numbers as labels on {len(data)} lines; to learn a value "
            "instead of classes, say --task regression"
        )


def _on_alike(lines: Mapping[str, int], name: str) -> Iterator[str]:
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for label in lines:
        alike[plain(label)].append(label)
    for group in alike.values():
        if len(group) > 1:
            look_alike = len({unicodedata.normalize("NFC", label) for label in group}) < len(group)
            spelt = ascii if look_alike else quoted
            shown = ", ".join(f"{spelt(label)} ({lines[label]} lines)" for label in group)
            yield (
                f"{name}: the labels {shown} differ in blanks, case or form only; they are "
                f"{len(group)} classes"
            )


def _on_torn(data: DataSet, name: str) -> Iterator[str]:
    of_text: dict[Hashable, set[float]] = collections.defaultdict(set)
    for line, target in zip(asked(data), data.targets.tolist(), strict=True):
        of_text[line].add(target)
    if torn := sum(len(targets) > 1 for targets in of_text.values()):
        what = "labels" if data.labels else "values"
        yield f"{name}: {torn} texts stand on several lines with different {what}"
