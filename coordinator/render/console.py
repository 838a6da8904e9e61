"""Prints text for people; names and data are shown as they are, never taken for markup."""

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text


def say(console: Console, text: str, *, style: str | None = None) -> None:
    """Prints a line; no markup, no emoji, no line breaks inside paths."""
    console.print(printable(text), style=style, markup=False, emoji=False, soft_wrap=True)


def cell(text: str) -> Text:
    """Makes a table's cell with just these characters."""
    return Text(printable(text))


def table_of(title: str, *columns: str, left: int = 1, devices: bool = False) -> Table:
    """Makes a table; the first ``left`` columns begin at their left.

    One of ``devices`` is narrow enough for 80 columns; names, which people type, are never cut.
    """
    table = Table(title=title, box=None, collapse_padding=devices, pad_edge=False)
    for index, column in enumerate(columns):
        justify: JustifyMethod = "left" if index < left else "right"
        table.add_column(column, justify=justify, no_wrap=devices and index == 0)
    return table


def counted(number: int, what: str) -> str:
    """Writes a number with what it counts, which has a plural with an s."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Replaces escape sequences, which would speak to the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
