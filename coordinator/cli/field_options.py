"""Declares the options that name the data's fields, once for all commands that have them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from . import options as o

if TYPE_CHECKING:
    from coordinator.data import FieldNames

_HELP = {
    "text": "The text.",
    "text_pair": "The second text of a pair.",
    "label": "The label, or the value of a regression.",
    "prompt": "What is to be completed.",
    "completion": "How it is completed.",
    "messages": "The messages of a chat.",
    "source": "What an encoder-decoder reads.",
    "target": "What it writes.",
}


def names_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Adds these options to a command, which calls ``fields`` for what they say."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        names = {role: given.pop(f"{role}_field") for role in _HELP}
        ignored = tuple(given.pop("ignore_field") or ())
        command(**given, fields=functools.partial(_names, names, ignored))

    kind = inspect.Parameter.KEYWORD_ONLY
    own = inspect.signature(command).parameters.values()
    added = [
        inspect.Parameter(
            f"{role}_field",
            kind,
            default=role,
            annotation=Annotated[str, o.option(o.FIELDS, text, metavar="NAME")],
        )
        for role, text in _HELP.items()
    ]
    ignore = inspect.Parameter("ignore_field", kind, default=None, annotation=o.IgnoreField)
    parameters = [*(each for each in own if each.name != "fields"), *added, ignore]
    # These are what typer reads.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _names(names: Mapping[str, str], ignored: tuple[str, ...]) -> FieldNames:
    from coordinator.data import FieldNames

    return FieldNames(**names, ignored=ignored)
