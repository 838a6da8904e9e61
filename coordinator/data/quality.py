"""Notes what in the data is probably not meant. Pure."""

import collections
import json
import unicodedata
from collections.abc import Hashable, Iterator, Sequence

from .fields import listed
from .labelled import DataSet
from .language import Completions, Conversations, Documents, LanguageData

_MANY_NUMBERS = 50


def notes_on(data: DataSet | LanguageData, name: str) -> list[str]:
    """Notes labels that differ by nothing that is seen, texts without text, and the like."""
    notes = list(_on_texts(data, name))
    if isinstance(data, DataSet) and data.labels:
        notes += _on_labels(data, name)
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
        return [json.dumps(chat.messages, sort_keys=True) for chat in data.conversations]
    return list(data.sources)


def _on_texts(data: DataSet | LanguageData, name: str) -> Iterator[str]:
    if isinstance(data, DataSet):
        texts: Sequence[str] = data.inputs.texts
    elif isinstance(data, Documents):
        texts = data.texts
    elif isinstance(data, Completions):
        texts = data.completions
    else:
        return
    if empty := sum(not text.strip() for text in texts):
        what = "completions" if isinstance(data, Completions) else "texts"
        yield f"{name}: {empty} of {len(texts)} {what} are blank"


def _on_labels(data: DataSet, name: str) -> Iterator[str]:
    counts = collections.Counter(data.targets.tolist())
    lines = {label: counts[index] for index, label in enumerate(data.labels)}
    alike = collections.defaultdict(list)
    for label in data.labels:
        alike[" ".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    for group in alike.values():
        if len(group) > 1:
            shown = ", ".join(f"{label!r} ({lines[label]} lines)" for label in group)
            yield (
                f"{name}: the labels {shown} differ in blanks, case or form only; they are "
                f"{len(group)} classes"
            )
    if single := [label for label in data.labels if lines[label] == 1]:
        yield f"{name}: {len(single)} labels have one line only: {listed(single)}"
    numbers = sum(label.lstrip("-").isdigit() for label in data.labels)
    if numbers == len(data.labels) > _MANY_NUMBERS and 2 * numbers > len(data):
        yield (
            f"{name}: has {numbers} numbers as labels on {len(data)} lines; to learn a value "
            "instead of classes, say --task regression"
        )
    of_text: dict[Hashable, set[int]] = collections.defaultdict(set)
    for line, label in zip(asked(data), data.targets.tolist(), strict=True):
        of_text[line].add(label)
    if torn := sum(len(labels) > 1 for labels in of_text.values()):
        yield f"{name}: {torn} texts stand on several lines with different labels"
