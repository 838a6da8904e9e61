"""Names fields: what the user calls them, and those that a task does not know."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.manifest import Task

Form: TypeAlias = Literal["labelled", "pair", "text", "completion", "chat", "instruction"]
"""What a line is: a labelled text, source and target, or a language model's."""

SHAREGPT = "conversations"
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
SYSTEM, HISTORY = "system", "history"
TOOLS, FUNCTIONS, VARIABLES = "tools", "functions", "chat_template_kwargs"

ASKS = ("question", "query", "input", "problem", "user")
ANSWERS = ("answer", "response", "output", "solution", "assistant")
"""What others call a prompt and its completion, in lower case."""

_ROLES: Mapping[Task, tuple[str, ...]] = {
    "classification": ("text", "text_pair", "label"),
    "regression": ("text", "text_pair", "label"),
    "causal-lm": ("text", "prompt", "completion", "messages"),
    "seq2seq": ("source", "target"),
}
_FIXED: Mapping[Form, tuple[str, ...]] = {
    "chat": (SHAREGPT, TOOLS, FUNCTIONS, VARIABLES, SYSTEM),
    "instruction": (INSTRUCTION, INPUT, OUTPUT, SYSTEM, HISTORY),
}
_OF_FORM: Mapping[Form, tuple[str, ...]] = {
    "labelled": ("text", "text_pair", "label"),
    "pair": ("source", "target"),
    "text": ("text",),
    "completion": ("prompt", "completion"),
    "chat": ("messages",),
    "instruction": (),
}

_MEANINGS: Mapping[str, tuple[str, ...]] = {
    "gives a line more or less weight": (
        *("weight", "weights", "sample_weight", "loss_weight", "importance", "loss", "train"),
        *("trainable", "train_on_input", "train_on_inputs", "learn"),
    ),
    "says which tokens are learnt": (
        *("mask", "masks", "loss_mask", "label_mask", "labels", "masked", "segments"),
        *("input_ids", "token_ids", "attention_mask", "tokens"),
    ),
    "is for models that see or hear": (
        *("image", "images", "audio", "audios", "video", "videos", "pixel_values"),
    ),
    "says which of two answers is better": (
        *("chosen", "rejected", "preference", "negative", "negatives", "positive"),
    ),
    "is read by the model before it answers": (
        *(SYSTEM, "system_prompt", HISTORY, INPUT, "context", "documents", "prefix", "suffix"),
        *(INSTRUCTION, "passage", "hint"),
    ),
    "is what the model thinks or answers": (
        *(OUTPUT, "response", "answer", "answers", "completion", "completions", "reasoning"),
        *("reasoning_content", "thinking", "thought"),
    ),
    "describes functions that the model may call": (TOOLS, FUNCTIONS, VARIABLES, "function_call"),
    "is a second text": (
        *("text2", "text_2", "text_b", "sentence2", "sentence_2", "sentence_b", "hypothesis"),
        *("question2", "text_pair", "second_text"),
    ),
}
"""Fields that other tools give a meaning to which decides what is learnt."""

_MEANING_OF = {name: meaning for meaning, names in _MEANINGS.items() for name in names}
_ON_LEARNING = (
    "gives a line more or less weight",
    "says which tokens are learnt",
    "says which of two answers is better",
    "is what the model thinks or answers",
)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = dict.fromkeys(
    # As text, too: a table has nothing else.
    _MEANINGS["gives a line more or less weight"],
    (1, True, "1", "1.0", "true", "True", "TRUE"),
)
_LISTS = ("labels", "tokens")
"""Alone, these are a label under another name and a count."""
_FALSE = ("false", "False", "FALSE")
"""Labels of answers that are not wanted, in preference data."""
_OPTIONAL = ("text_pair",)
_SHOWN, _SHOWN_CHARACTERS = 8, 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """Names of a line's fields, and of those that are not to be read.

    An ignored field counts as absent, so a line that has two forms can be learnt as one.
    """

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    source: str = "source"
    target: str = "target"
    ignored: tuple[str, ...] = ()

    def option(self, name: str) -> str:
        """The option that renames the field called ``name``."""
        roles = (role for role in _DEFAULTS if getattr(self, role) == name)
        return _option(next(roles, name))

    def check(self, task: Task) -> None:
        """Refuses names of which it is not clear what they mean in a task.

        Raises:
            UsageError: two fields have one name, an ignored one is needed, or a field is named
                that the task does not have.
        """
        roles = _ROLES[task]
        renamed = self.renamed()
        for role in renamed:
            if role not in roles:
                known = ", ".join(map(_option, roles))
                raise UsageError(f"{_option(role)} is nothing that {task} reads; it has {known}")
        taken: dict[str, str] = {}
        for role in roles:
            name = getattr(self, role)
            if name in taken:
                first, second = _option(taken[name]), _option(role)
                raise UsageError(f"{first} and {second} are both {name!r}; give each its own name")
            needed = task != "causal-lm" and role not in _OPTIONAL  # that has several forms
            if name in self.ignored and (needed or role in renamed):
                raise UsageError(f"--ignore-field {name}: {_option(role)} needs it")
            taken[name] = role

    def ignoring(self, more: Iterable[str]) -> "FieldNames":
        """Adds fields that are not to be read."""
        return dataclasses.replace(self, ignored=(*self.ignored, *more))

    def read_by(self, form: Form) -> frozenset[str]:
        """Lists the fields that lines of a form have; a renamed one is nothing else."""
        own = {getattr(self, role) for role in _OF_FORM[form]}
        return frozenset(own | {name for name in _FIXED.get(form, ()) if not self.renamed_to(name)})

    def renamed(self) -> tuple[str, ...]:
        """Lists the roles whose fields do not have their usual names."""
        return tuple(role for role, usual in _DEFAULTS.items() if getattr(self, role) != usual)

    def renamed_to(self, name: str) -> bool:
        """Tells whether some field was given this name."""
        return any(getattr(self, role) == name for role in self.renamed())


_DEFAULTS: Mapping[str, str] = {
    field.name: str(field.default)
    for field in dataclasses.fields(FieldNames)
    if field.name != "ignored"
}


def unread_fields(
    values: Iterable[Mapping[str, Any]], names: FieldNames, form: Form, *, learning: bool = True
) -> tuple[tuple[str, ...], tuple[tuple[int, str, str], ...]]:
    """Finds fields that nobody reads.

    Args:
        values: of each line.
        names: what the fields are called.
        form: of all lines.
        learning: what only says how to learn has a meaning, too.

    Returns:
        Those that mean nothing to training, and those that other tools give a meaning to: the
        line's index, the field and its meaning, of the first line that says something there.
    """
    known = names.read_by(form) | set(names.ignored)
    idle: dict[str, None] = {}
    meaning: dict[str, tuple[int, str, str]] = {}
    for index, line in enumerate(values):
        for name, value in line.items():
            if name in known or name in meaning:
                continue
            usual = _usual(name)
            means = _MEANING_OF.get(usual)
            if usual == "label" and (value is False or value in _FALSE):
                means = "says which of two answers is better"
            says_nothing = value in (None, "", [], {}) or value in _NEUTRAL.get(usual, ())
            if usual in _LISTS and isinstance(value, str | int | float):
                says_nothing = True
            if means and not says_nothing and (learning or means not in _ON_LEARNING):
                meaning[name] = (index, name, means)
            else:
                idle[name] = None
    return tuple(name for name in idle if name not in meaning), tuple(meaning.values())


@functools.lru_cache(1 << 10)
def _usual(name: str) -> str:
    """Spells ``lossMask``, ``Loss-Mask`` and the like as tables of names do."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\s.-]+", "_", name.strip()).lower()


def listed(names: Iterable[str]) -> str:
    """Lists names for a message, the first of many, each as far as it says something."""
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" * (len(every) > _SHOWN)
    return ", ".join(map(quoted, every[:_SHOWN])) + more


def quoted(text: str) -> str:
    """Quotes a text for a message, cut if it is long; escapes what speaks to terminals."""
    cut = len(text) > _SHOWN_CHARACTERS
    return repr(text[:_SHOWN_CHARACTERS]) + "..." * cut


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')}-field"
