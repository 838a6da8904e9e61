"""Places for output: checked before any work, and left as they were when the work fails."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.contract.errors import BadInputError

PROBE_BYTES = 1 << 20


@contextlib.contextmanager
def explained_os_errors(where: object, advice: str = "") -> Iterator[None]:
    """Turns an OSError into one line that names its file, or else ``where``.

    Raises:
        BadInputError: the line, with ``advice`` at its end.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise BadInputError(f"{error.filename or where}: {reason}{advice}") from None


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yields a folder to write into, whose contents become those of ``output`` at the end.

    It is made at once, which proves that there can be one. An empty folder is filled rather
    than replaced: it may be a mount point, a link's target or where a shell stands.
    After an error everything is as it was.

    Raises:
        BadInputError: ``output`` has contents, or writing fails.
    """
    with explained_os_errors(output, "; choose another -o"):
        if output.is_file() or (output.is_dir() and any(output.iterdir())):
            raise BadInputError(f"{output}: exists and is not an empty folder; choose another -o")
    partial = _folder_near(output)
    try:
        with explained_os_errors(output, f"; nothing was written to {output}"):
            yield partial
            if output.is_dir():
                for path in sorted(partial.iterdir()):
                    path.replace(output / path.name)
            else:
                output.parent.mkdir(parents=True, exist_ok=True)
                partial.chmod(0o777 & ~_umask())  # only its owner may look into a temporary one
                partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new_file(path: Path, *, example: str) -> None:
    """Refuses a file that exists or cannot be made there.

    Raises:
        BadInputError: says why; ``example`` is a name that a folder could hold.
    """
    with explained_os_errors(path):
        if path.is_dir():
            raise BadInputError(f"{path}: is a folder; name a file: -o {path / example}")
        if path.exists():
            raise BadInputError(f"{path}: exists; choose another -o, or remove it first")
    _folder_near(path).rmdir()


def check_folder(output: Path) -> None:
    """Proves that ``output``, which may not exist yet, can be made and written to.

    Raises:
        BadInputError: it cannot, or its disk is full.
    """
    probe = _folder_near(output)
    try:
        with explained_os_errors(output, "; choose another -o"):
            (probe / "probe").write_bytes(bytes(PROBE_BYTES))
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def check_file(path: Path) -> None:
    """Proves that a file can be written at ``path``, over one that is there.

    Raises:
        BadInputError: it cannot, or its disk is full.
    """
    with explained_os_errors(path):
        if path.is_dir():
            raise BadInputError(f"{path}: is a folder; name a file")
        if path.exists():
            with path.open("ab"):
                pass
    check_folder(path.parent)


def check_space(needed_bytes: int, output: Path) -> None:
    """Refuses to begin what cannot fit.

    Raises:
        BadInputError: says how much is needed and how much is free.
    """
    free = shutil.disk_usage(_nearest(output)).free
    if free < needed_bytes:
        raise BadInputError(
            f"{output}: needs {needed_bytes / 1e6:,.1f} MB or more, and {free / 1e6:,.1f} MB are "
            "free there; make room, or choose another -o"
        )


def _folder_near(output: Path) -> Path:
    """Makes a temporary folder in ``output`` or in the nearest of its parents that exists."""
    if output.is_symlink() and not output.exists():
        raise BadInputError(
            f"{output}: is a link to {output.readlink()}, which does not exist; choose another -o"
        )
    try:
        return Path(tempfile.mkdtemp(prefix=".pacplus-partial-", dir=_nearest(output)))
    except OSError as error:
        raise BadInputError(
            f"{output}: cannot be written: {_nearest(output)}: {error.strerror}; choose another -o"
        ) from None


def _nearest(output: Path) -> Path:
    return next(path for path in (output, *output.parents) if os.path.lexists(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
