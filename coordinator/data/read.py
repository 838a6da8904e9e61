"""Reads data files, once: what is hashed is what is learnt, of a pipe as well.

The suffix says the form: ``.jsonl`` (and anything else), ``.json``, ``.csv``, ``.tsv``,
``.parquet``, ``.arrow``, each also with ``.gz``; a pipe has none and is told by its start. A
folder is a data set that was saved by Hugging Face's ``datasets``; ``-`` is standard input.
"""

import dataclasses
import glob
import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

from edge_runtime.contract.errors import BadInputError

from .arrow import parse_arrow, parse_parquet, read_folder
from .json_lines import parse_json, parse_lines
from .lines import DataFile, Line
from .table import DELIMITERS, parse_csv, parse_tsv

Source: TypeAlias = DataFile | Path | str | Sequence[Path | str]
"""A file, several, a pattern, or what was read before."""

STDIN = "-"
MAX_UNPACKED_BYTES = 4 << 30
_SURE_BYTES, _MAX_RATIO = 256 << 20, 100
"""What any file may unpack to; beyond it, texts do not pack that well."""
_CHUNK_BYTES = 1 << 20
_NAMED = 3
_OTHERS = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
    b"BZh": "packed by bzip2; unpack it, or pack it by gzip",
    b"\xfd7zXZ": "packed by xz; unpack it, or pack it by gzip",
    b"SQLite format 3": "an SQLite database; save the table as CSV",
    b"%PDF": "a PDF; save its text",
    b"version https://git-lfs": "a Git-LFS pointer; fetch the file with: git lfs pull",
}
"""How files begin that are no data file, and what to do."""
_TEXT_READERS: dict[str, Callable[[str, str], list[Line]]] = {
    ".json": parse_json,
    ".csv": parse_csv,
    ".tsv": parse_tsv,
}


def read_data(source: Source, ignored: Collection[str] = ()) -> DataFile:
    """Reads every line of a source, but for the fields that are ``ignored``.

    Raises:
        BadInputError: a file cannot be read, a line is not what it must be, or there is none.
        MissingExtraError: a table needs a package that is not installed.
    """
    data = source if isinstance(source, DataFile) else _read_all(source)
    if not ignored:
        return data
    lines = (
        dataclasses.replace(line, values={k: v for k, v in line.values.items() if k not in ignored})
        for line in data.lines
    )
    return dataclasses.replace(data, lines=tuple(lines))


def _read_all(source: Path | str | Sequence[Path | str]) -> DataFile:
    paths = _paths([source] if isinstance(source, Path | str) else source)
    parts = [_read(path) for path in paths]
    lines = tuple(line for part in parts for line in part.lines)
    more = f" and {len(parts) - _NAMED} more" * (len(parts) > _NAMED)
    name = ", ".join(part.name for part in parts[:_NAMED]) + more
    if not lines:
        raise BadInputError(
            f"{name}: is empty; it must hold one JSON object a line, or a header and rows"
        )
    if len(parts) == 1:
        return DataFile(name=name, lines=lines, sha256=parts[0].sha256)
    digest = hashlib.sha256("\n".join(part.sha256 for part in parts).encode()).hexdigest()
    return DataFile(name=name, lines=lines, sha256=digest)


def _paths(given: Sequence[Path | str]) -> list[Path]:
    """Resolves patterns; raises BadInputError for one without a file, or a file given twice."""
    found: list[Path] = []
    for each in given:
        path = Path(each)
        if not glob.has_magic(str(each)) or _is(path, Path.exists):
            found.append(path)
            continue
        matches = sorted(map(Path, glob.glob(str(each), recursive=True)))  # noqa: PTH207 - absolute ones, too
        if not matches:
            raise BadInputError(f"{each}: no file matches this pattern")
        found += matches
    seen: set[Path] = set()
    for path in found:
        real = Path(os.path.realpath(path)) if "\0" not in str(path) else path
        if real in seen:
            raise BadInputError(f"{path}: is given twice; its lines would count twice")
        seen.add(real)
    if not found:
        raise BadInputError("no data file is given")
    return found


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Asks for a path's kind; False for what can be no path at all, as a text given for one."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def _read(path: Path) -> DataFile:
    if _is(path, Path.is_dir):
        return read_folder(path)
    name = "standard input" if str(path) == STDIN else str(path)
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    suffix, packed = path.suffix.lower(), False
    if suffix == ".gz" or data[:2] == b"\x1f\x8b":
        packed = True
        data = _unpacked(name, data)
        suffix = path.with_suffix("").suffix.lower() if suffix == ".gz" else suffix
    if suffix == ".parquet" or data[:4] == b"PAR1":
        return DataFile(name=name, lines=tuple(parse_parquet(name, data)), sha256=digest)
    if data.startswith((b"ARROW1", b"\xff\xff\xff\xff")):  # no text begins so
        return DataFile(name=name, lines=tuple(parse_arrow(name, data)), sha256=digest)
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise BadInputError(f"{name}: is {what}")
    text = _decoded(name, data, packed)
    parse = _TEXT_READERS.get(suffix) or _told_by_start(text, suffix)
    return DataFile(name=name, lines=tuple(parse(name, text)), sha256=digest)


def _told_by_start(text: str, suffix: str) -> Callable[[str, str], list[Line]]:
    """Chooses a reader by how a text begins; one without a suffix, as a pipe, may be a table."""
    start = text.lstrip()
    if start[:1] == "[":
        return parse_json
    header = start.split("\n", 1)[0]
    table = not suffix and start[:1] != "{" and any(each in header for each in DELIMITERS)
    return parse_csv if table else parse_lines


def _bytes(path: Path) -> bytes:
    if str(path) == STDIN and sys.stdin is None:  # closed by "<&-"
        raise BadInputError("standard input is closed; give a file, or pipe the data in")
    try:
        return sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file; give the path of a data file") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadInputError(f"{str(path)!r}: is no path ({error})") from None


def _unpacked(name: str, data: bytes) -> bytes:
    """Unpacks gzip, all of its members, up to a limit."""
    parts: list[bytes] = []
    size, rest = 0, data
    limit = min(MAX_UNPACKED_BYTES, max(_SURE_BYTES, _MAX_RATIO * len(data)))
    try:
        while rest:
            engine = zlib.decompressobj(wbits=31)
            piece = engine.decompress(rest, _CHUNK_BYTES)
            while piece:
                parts.append(piece)
                size += len(piece)
                if size > limit:
                    raise BadInputError(
                        f"{name}: {len(data)} bytes unpack to more than {limit >> 20} MiB; unpack "
                        "the file if it is meant so"
                    )
                piece = engine.decompress(engine.unconsumed_tail, _CHUNK_BYTES)
            if not engine.eof:
                raise BadInputError(f"{name}: ends in the middle; the gzip file is not whole")
            rest = engine.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise BadInputError(f"{name}: is no whole gzip file ({error})") from None
    return b"".join(parts)


def _decoded(name: str, data: bytes, packed: bool) -> str:
    """Text in UTF-8, or in UTF-16, as Excel and PowerShell save it, with a mark or without."""
    encoding, zeros = "utf-8-sig", [byte == 0 for byte in data[:4]]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif zeros in ([False, True] * 2, [True, False] * 2):  # two of ASCII, as in RFC 4627
        encoding = "utf-16-be" if zeros[0] else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        number = data.count(b"\n", 0, error.start) + 1
        unpacked = "unpacked and " * packed
        raise BadInputError(
            f"{name}, line {number}: not {encoding[:6].rstrip('-').upper()} (byte "
            f"{error.start - start + 1} of the line); save the file as {unpacked}UTF-8"
        ) from None
