"""Has a benchmark go on only with results of the settings that it is given."""

import json
from collections.abc import Mapping
from pathlib import Path


def check_settings(path: Path, settings: Mapping[str, object], results: Path) -> None:
    """Keeps the settings that results are of in a file, and refuses results of others.

    Args:
        path: of that file.
        settings: given now; text, numbers and None.
        results: may be there from an earlier call, which then has kept its settings too.

    Raises:
        SystemExit: the results are of other settings, or nobody knows of which; in one line.
    """
    if path.exists():
        if (before := json.loads(path.read_text(encoding="utf-8"))) != settings:
            raise SystemExit(f"{path}: is of {before}, not {settings}; choose another --out")
    elif results.exists():
        raise SystemExit(
            f"{results}: {path.name} is not there to say of what; choose another --out"
        )
    path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
