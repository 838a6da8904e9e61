"""Two boards with one key, because the home of one was copied to the other."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TinyBundleMaker
from tests.end_to_end.test_light_device import listen  # noqa: F401 - a fixture
from tests.processes import environment, finish, start

pytestmark = pytest.mark.slow


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(30.0)


def device(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edge_runtime", *arguments, "--home", str(home)]
    return subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL)


def pair(laptop: Path, board: Path, address: str, *more: str) -> None:
    pairing = start(laptop, "pair", "--listen", address)
    assert pairing.stderr is not None
    shown = next(filter(None, (re.search(r"pair (\S+) (\S+)", line) for line in pairing.stderr)))
    asked = device(board, "pair", *shown.groups(), "--name", "board-a", *more)
    assert asked.wait(30.0) == 0
    assert finish(pairing).code == 0


def test_a_copied_home_is_recognized_and_the_advice_mends_it(
    tmp_path: Path,
    tiny_bundle: TinyBundleMaker,
    data: Path,
    listen: str,  # noqa: F811
    boards: list[subprocess.Popen[bytes]],
) -> None:
    laptop, first, second = (tmp_path / name for name in ("laptop", "first", "second"))
    pair(laptop, first, listen)
    shutil.copytree(first, second)
    boards += [device(home, "start") for home in (first, second)]
    bundle = tiny_bundle("bert", "none").path
    arguments = ["plan", str(bundle), "--data", str(data / "train.jsonl"), "--devices", "all"]
    ended = finish(start(laptop, *arguments, "--listen", listen))
    assert ended.code == 4
    assert "two devices use the key of board-a" in ended.err
    assert "pacplus-device pair ADDRESS TOKEN --new-key" in ended.err
    assert "--resume" not in ended.err

    boards[1].send_signal(signal.SIGTERM)
    boards.pop().wait(30.0)
    pair(laptop, second, listen, "--new-key")
    boards.append(device(second, "start"))
    ended = finish(start(laptop, *arguments, "--listen", listen))
    assert ended.code == 0, ended.err
    assert "board-a-2" in ended.out
