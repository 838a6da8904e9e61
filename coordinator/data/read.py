"""Reads data files, once: what is hashed is what is learnt, of a pipe as well.

The suffix says the form: ``.jsonl`` (and anything else), ``.json``, ``.csv``, ``.tsv``,
``.parquet``, each but the last also with ``.gz``; a folder is a data set that was saved by
Hugging Face's ``datasets``; ``-`` is standard input.
"""

import glob
import hashlib
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from edge_runtime.contract.errors import BadInputError

from .arrow import parse_parquet, read_folder
from .json_lines import parse_json, parse_lines
from .lines import DataFile, Line
from .table import parse_csv, parse_tsv

Source: TypeAlias = DataFile | Path | str | Sequence[Path | str]
"""A file, several, a pattern, or what was read before."""

STDIN = "-"
MAX_UNPACKED_BYTES = 4 << 30
_CHUNK_BYTES = 1 << 20
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


def read_data(source: Source) -> DataFile:
    """Reads every line of a source.

    Raises:
        BadInputError: a file cannot be read, a line is not what it must be, or there is none.
        MissingExtraError: a table needs a package that is not installed.
    """
    if isinstance(source, DataFile):
        return source
    paths = _paths([source] if isinstance(source, Path | str) else source)
    parts = [_read(path) for path in paths]
    lines = tuple(line for part in parts for line in part.lines)
    name = ", ".join(part.name for part in parts)
    if not lines:
        raise BadInputError(f"{name}: is empty; it must hold one JSON object a line")
    if len(parts) == 1:
        return DataFile(name=name, lines=lines, sha256=parts[0].sha256)
    digest = hashlib.sha256("\n".join(part.sha256 for part in parts).encode()).hexdigest()
    return DataFile(name=name, lines=lines, sha256=digest)


def _paths(given: Sequence[Path | str]) -> list[Path]:
    """Resolves patterns; raises BadInputError for one without a file, or a file given twice."""
    found: list[Path] = []
    for each in given:
        path = Path(each)
        if not glob.has_magic(str(each)) or path.exists():
            found.append(path)
            continue
        matches = sorted(map(Path, glob.glob(str(each), recursive=True)))  # noqa: PTH207 - absolute ones, too
        if not matches:
            raise BadInputError(f"{each}: no file matches this pattern")
        found += matches
    seen: set[Path] = set()
    for path in found:
        if path.resolve() in seen:
            raise BadInputError(f"{path}: is given twice; its lines would count twice")
        seen.add(path.resolve())
    if not found:
        raise BadInputError("no data file is given")
    return found


def _read(path: Path) -> DataFile:
    if path.is_dir():
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
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise BadInputError(f"{name}: is {what}")
    text = _decoded(name, data, packed)
    if suffix not in _TEXT_READERS and text.lstrip()[:1] == "[":
        suffix = ".json"
    parse = _TEXT_READERS.get(suffix, parse_lines)
    return DataFile(name=name, lines=tuple(parse(name, text)), sha256=digest)


def _bytes(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file; give the path of a data file") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from None


def _unpacked(name: str, data: bytes) -> bytes:
    """Unpacks gzip, all of its members, up to a limit."""
    parts: list[bytes] = []
    size, rest = 0, data
    try:
        while rest:
            engine = zlib.decompressobj(wbits=31)
            piece = engine.decompress(rest, _CHUNK_BYTES)
            while piece:
                parts.append(piece)
                size += len(piece)
                if size > MAX_UNPACKED_BYTES:
                    raise BadInputError(
                        f"{name}: unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB"
                    )
                piece = engine.decompress(engine.unconsumed_tail, _CHUNK_BYTES)
            if not engine.eof:
                raise BadInputError(f"{name}: ends in the middle; the gzip file is not whole")
            rest = engine.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise BadInputError(f"{name}: is no whole gzip file ({error})") from None
    return b"".join(parts)


def _decoded(name: str, data: bytes, packed: bool) -> str:
    """Text in UTF-8, or in UTF-16 with a mark, as Excel saves it."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        number = data.count(b"\n", 0, error.start) + 1
        unpacked = "unpacked and " * packed
        raise BadInputError(
            f"{name}, line {number}: not UTF-8 (byte {error.start - start + 1} of the line); "
            f"save the file as {unpacked}UTF-8"
        ) from None
