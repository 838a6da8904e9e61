"""Notes what in the data is probably not meant. Pure."""

import collections
import json
import math
import unicodedata
from collections.abc import Hashable, Iterator, Mapping, Sequence

from edge_runtime.contract.errors import BadInputError
from export.chat.conversation import Conversation

from .fields import listed, quoted
from .labelled import DataSet, number_of, plain
from .language import Completions, Conversations, Documents, LanguageData, Transformations
from .lines import first_places

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
    return notes + list(_on_torn(data, name))


def check_answers(data: DataSet | LanguageData, name: str) -> None:
    """Refuses data for language models in which all that would be learnt is blank.

    Raises:
        BadInputError: names what is blank.
    """
    if isinstance(data, DataSet) or any(not blank for blank in _blank(data)):
        return
    what = next(_texts(data))[0]
    raise BadInputError(
        f"{name}: all {what} are blank, so there is nothing to learn; add what is to be said"
    )


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


def questions(data: DataSet | LanguageData) -> list[Hashable]:
    """Lists what each line asks, as :func:`asked` does but without what answers it."""
    if isinstance(data, Completions):
        return list(data.prompts)
    if isinstance(data, Conversations):
        return [_question(chat) for chat in data.conversations]
    return asked(data)


def _question(chat: Conversation) -> str:
    given = (chat.messages[: _answering(chat)], chat.tools, chat.variables)
    return json.dumps(given, sort_keys=True, default=str)


def _answer(chat: Conversation) -> str:
    return json.dumps(chat.messages[_answering(chat) :], sort_keys=True, default=str)


def _answering(chat: Conversation) -> int:
    """Index of the last learnt turn."""
    return max(index for index, learnt in enumerate(chat.learnt) if learnt)


def _blank(data: LanguageData) -> Iterator[bool]:
    """Tells of each text to be learnt whether nothing stands there."""
    if not isinstance(data, Conversations):
        yield from (not text.strip() for _, texts, _ in _texts(data) for text in texts)
        return
    for chat in data.conversations:
        for message, learnt in zip(chat.messages, chat.learnt, strict=True):
            if learnt:
                said = (value for key, value in message.items() if key != "role")
                yield not any(each.strip() if isinstance(each, str) else each for each in said)


def _on_texts(data: DataSet | LanguageData, name: str) -> Iterator[str]:
    for what, texts, places in _texts(data):
        blank = [place for text, place in zip(texts, places, strict=True) if not text.strip()]
        if blank:
            found = f"{len(blank)} of {len(texts)} {what} are blank"
            yield f"{name}: {found}: {first_places(blank)}"
        for text, count in collections.Counter(each for each in texts if each in _MISSING).items():
            yield f"{name}: {count} of {len(texts)} {what} are {text!r}; {_IF_MISSING}"


def _texts(
    data: DataSet | LanguageData,
) -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """Lists what is called how, the texts, and where each stands."""
    if isinstance(data, DataSet):
        places = data.inputs.places
        yield "texts", data.inputs.texts, places
        yield "second texts", data.inputs.pairs or (), places if data.inputs.pairs else ()
    elif isinstance(data, Documents):
        yield "texts", data.texts, data.places
    elif isinstance(data, Completions):
        yield "completions", data.completions, data.places
    elif isinstance(data, Transformations):
        yield "targets", data.targets, data.places
    else:
        turns = [
            (turn, place)
            for chat, place in zip(data.conversations, data.places, strict=True)
            for turn in _learnt(chat)
        ]
        yield "learnt turns", [turn for turn, _ in turns], [place for _, place in turns]


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


def _on_torn(data: DataSet | LanguageData, name: str) -> Iterator[str]:
    of_question: dict[Hashable, set[Hashable]] = collections.defaultdict(set)
    for question, answer in zip(questions(data), _answers(data), strict=False):
        of_question[question].add(answer)
    if torn := sum(len(answers) > 1 for answers in of_question.values()):
        asking, answering = _called(data)
        stand = f"{asking} stands" if torn == 1 else f"{asking}s stand"
        yield f"{name}: {torn} {stand} on several lines with different {answering}"


def _answers(data: DataSet | LanguageData) -> Sequence[Hashable]:
    """Lists what answers each of :func:`questions`; nothing where lines ask nothing."""
    if isinstance(data, DataSet):
        return [*data.targets.tolist()]
    if isinstance(data, Completions):
        return data.completions
    if isinstance(data, Transformations):
        return data.targets
    if isinstance(data, Conversations):
        return [_answer(chat) for chat in data.conversations]
    return ()


def _called(data: DataSet | LanguageData) -> tuple[str, str]:
    if isinstance(data, DataSet):
        return "text", "labels" if data.labels else "values"
    if isinstance(data, Completions):
        return "prompt", "completions"
    return ("chat", "answers") if isinstance(data, Conversations) else ("source", "targets")
