"""Data are read once, whatever they are in; what cannot be read is said."""

import functools
import gzip
import hashlib
import io
import json
import os
import threading
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from coordinator.data import DataFile, read_data
from edge_runtime.contract.errors import BadInputError

ROWS = [{"text": "a, b", "label": "x"}, {"text": 'ü\n"c"', "label": "y"}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'text,label\n"a, b",x\n"ü\n""c""",y\n'


# Without a time: workers must find the same names for their tests.
packed = functools.partial(gzip.compress, mtime=0)


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def rows(data: DataFile) -> list[object]:
    return [dict(line.values) for line in data.lines]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", JSONL),
        ("a", JSONL.replace("\n", "\r\n")),
        ("a.jsonl.gz", packed(JSONL.encode())),
        ("two-members.gz", packed(JSONL[:30].encode()) + packed(JSONL[30:].encode())),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("called.jsonl", json.dumps(ROWS)),
        ("called.json", JSONL),
        ("a.csv", CSV),
        ("a.CSV", "\ufeff" + CSV),
        ("a.csv.gz", packed(CSV.encode())),
        ("blanks.csv", CSV.replace('",', '", ').replace("text,", "text, ")),
        ("sep.csv", "sep=;\r\n" + CSV.replace(",x", ";x").replace(",y", ";y").replace("t,", "t;")),
        ("empty-rows.csv", CSV + ",\n,\n"),
        ("mac.jsonl", JSONL.replace("\n", "\r")),
        ("mac.csv", 'text;label\r"a, b";x\r"ü\n""c""";y\r'),
        ("piped", CSV),
        ("piped-and-packed", packed(CSV.encode())),
        ("powershell.jsonl", JSONL.encode("utf-16-le")),
        ("joined.jsonl", "\ufeff" + JSONL.replace("\n", "\n\ufeff")),
        ("excel.csv", CSV.replace(",x", ";x").replace(",y", ";y").replace("text,", "text;")),
        ("a.tsv", 'text\tlabel\na, b\tx\n"ü\n""c"""\ty\n'),
        ("excel.tsv", 'text\tlabel\r\na, b\tx\r\n"ü\n""c"""\ty\r\n'.encode("utf-16")),
    ],
)
def test_the_same_lines_come_out_of_every_form(tmp_path: Path, name: str, data: str | bytes):
    found = read_data(write(tmp_path / name, data))
    assert rows(found) == ROWS
    assert found.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_blanks_at_the_ends_of_cells_are_kept(tmp_path: Path) -> None:
    found = read_data(write(tmp_path / "a.csv", "text\n a\nb \n"))
    assert rows(found) == [{"text": " a"}, {"text": "b "}]


def test_parquet_and_saved_data_sets_are_read(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([*ROWS, {"text": "z", "label": None}])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = read_data(tmp_path / "a.parquet")
    assert rows(found) == [*ROWS, {"text": "z"}]
    assert found.lines[1].place == f"{tmp_path}/a.parquet, row 2"
    saved = tmp_path / "saved"
    saved.mkdir()
    for name, part in (("data", table), ("order", pyarrow.table({"indices": [2, 0]}))):
        with pyarrow.ipc.new_stream(saved / f"{name}.arrow", part.schema) as stream:
            stream.write_table(part)
    state = {"_data_files": [{"filename": "data.arrow"}]}
    write(saved / "state.json", json.dumps(state))
    assert rows(read_data(saved)) == [*ROWS, {"text": "z"}]
    shuffled = state | {"_indices_data_files": [{"filename": "order.arrow"}]}
    write(saved / "state.json", json.dumps(shuffled))
    assert rows(read_data(saved)) == [{"text": "z"}, ROWS[0]]


def test_a_saved_data_set_with_splits_asks_for_one(tmp_path: Path) -> None:
    write(tmp_path / "dataset_dict.json", '{"splits": ["train", "test"]}')
    with pytest.raises(BadInputError, match=r"holds the splits train, test; give one, as .*/train"):
        read_data(tmp_path)


def test_a_folder_of_files_names_the_pattern(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "0.parquet", b"")
    with pytest.raises(BadInputError, match=r"give its files, as '.*/data/\*\.parquet'"):
        read_data(tmp_path)


@pytest.mark.parametrize("state", ["{}", '{"_data_files": ["a"]}', '{"_data_files": {"a": 1}}'])
def test_a_damaged_data_set_is_named(tmp_path: Path, state: str) -> None:
    write(tmp_path / "state.json", state)
    with pytest.raises(BadInputError, match=r"is empty|cannot be read as a data set"):
        read_data(tmp_path)


def test_arrow_files_and_streams_are_read(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    for name, opened in (("file", pyarrow.ipc.new_file), ("stream", pyarrow.ipc.new_stream)):
        with opened(str(tmp_path / name), table.schema) as sink:
            sink.write_table(table)
        assert rows(read_data(tmp_path / name)) == ROWS


def test_columns_that_python_has_no_values_for_are_no_hindrance(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    times = (pyarrow.timestamp("ns"), pyarrow.timestamp("us"), pyarrow.timestamp("s", tz="Mars/X"))
    for index, kind in enumerate(times):
        table = table.append_column(f"at{index}", pyarrow.array([1 << 61 >> index * 25, 1], kind))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = read_data(tmp_path / "a.parquet")
    assert [row["text"] for row in rows(found)] == [row["text"] for row in ROWS]


def test_texts_that_a_writer_stored_as_bytes_are_texts(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["ä".encode(), b"\xff"]}), tmp_path / "a")
    assert rows(read_data(tmp_path / "a")) == [{"text": "ä"}, {"text": b"\xff"}]


def test_files_follow_one_another_and_lines_keep_their_places(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, JSONL) for name in ("a.jsonl", "b.jsonl"))
    found = read_data([first, second])
    assert rows(found) == ROWS * 2
    assert [line.place for line in found.lines[1:3]] == [f"{first}, line 2", f"{second}, line 1"]
    assert rows(read_data(f"{tmp_path}/*.jsonl")) == ROWS * 2
    assert read_data(f"{tmp_path}/*.jsonl").sha256 == found.sha256 != read_data(first).sha256


def test_a_pipe_is_read_once_and_hashed_as_it_was_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(JSONL,))
    writer.start()
    found = read_data(pipe)
    writer.join(10)
    assert (rows(found), found.sha256) == (ROWS, hashlib.sha256(JSONL.encode()).hexdigest())


def test_standard_input_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(JSONL.encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    found = read_data("-")
    assert (found.name, rows(found)) == ("standard input", ROWS)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", "text,label\na,b,c\n", "line 2: has 3 cells, the header has 2; put"),
        ("a.csv", 'text,label\n"a\nb",x\n"c,y\n', "line 4: .*quotes inside of cells"),
        ("a.csv", ",text\n0,a\n", r"column 1 has no name.*to_csv\(index=False\)"),
        ("a.csv", "text,text\n", "the header has 'text' twice"),
        ("a.csv", "text,label\n", "is empty"),
        ("a.csv", "text,label\na,x\n\ufefftext,label\nb,y\n", "line 3: is the header again"),
        ("a.csv", JSONL, "is JSON, not a table; call it .jsonl"),
        ("piped", "hello\nthere, you\n", "line 1: not JSON"),
        ("a.jsonl", JSONL.replace("\n", "\r", 1) + JSONL, r"line 1: not JSON .*CR alone; tr"),
        ("a.jsonl", CSV, "line 1: not JSON .*tables are called .csv"),
        ("a.jsonl", json.dumps(ROWS[0], indent=1) + JSONL, "line 1: not JSON .*jq -c"),
        ("a.tsv", 'text\tlabel\n"good\t1\nbad"\t0\n', "line 2: a quote at the start of a cell"),
        ("a.xlsx", b"PK\x03\x04....", "is a zip archive or an Excel workbook; .* as CSV"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", "is packed by zstd"),
        ("a.json", '{"data": []}', "is one object with 'data'; give the array"),
        ("a.json", "[1]", "item 1: expected an object"),
        ("a.json", "x", "not JSON .*must be an array of objects"),
        ("a.gz", packed(b"{}")[:-9], "ends in the middle|no whole gzip"),
        ("a.gz", b"{}", "no whole gzip file"),
        (
            "a.jsonl",
            "version https://git-lfs.github.com/spec/v1\n",
            "Git-LFS pointer; .*git lfs pull",
        ),
        ("a.jsonl", b"{}\n\xff", r"line 2: not UTF-8 \(byte 1 of the line\)"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, data: str | bytes, said: str):
    with pytest.raises(BadInputError, match=rf"{name}.*({said})"):
        read_data(write(tmp_path / name, data))


def test_a_file_that_unpacks_to_more_than_sense_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("coordinator.data.read.MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(BadInputError, match="bytes unpack to more than 1 MiB"):
        read_data(write(tmp_path / "a.gz", packed(bytes(3 << 20))))


def test_a_closed_standard_input_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(BadInputError, match="standard input is closed"):
        read_data("-")


def test_ignored_fields_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", JSONL)
    whole, part = read_data(path), read_data(path, ["label"])
    assert rows(part) == [{"text": row["text"]} for row in ROWS]
    assert part.sha256 == whole.sha256


def test_many_files_are_named_by_the_first(tmp_path: Path) -> None:
    for index in range(9):
        write(tmp_path / f"{index}.jsonl", JSONL)
    assert read_data(f"{tmp_path}/*.jsonl").name.endswith("2.jsonl and 6 more")


def test_a_file_given_twice_and_a_pattern_without_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", JSONL)
    with pytest.raises(BadInputError, match="is given twice"):
        read_data([path, f"{tmp_path}/*.jsonl"])
    with pytest.raises(BadInputError, match="no file matches this pattern"):
        read_data(f"{tmp_path}/*.csv")
