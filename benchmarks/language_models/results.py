"""The results file: one JSON object a line, each appended as soon as it is known."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Results:
    """Rows of earlier runs and of this one."""

    def __init__(self, path: Path) -> None:
        """Reads what is there, but for a last line that was cut off as it was written."""
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        self.rows: list[Row] = [json.loads(line) for line in whole.splitlines()]

    def find(self, **wanted: object) -> list[Row]:
        """Finds rows that have these values."""
        return [row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())]

    def add(self, row: Row) -> None:
        """Appends a row, to the disk."""
        self.rows.append(row)
        line = json.dumps(row)
        print(line, flush=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
