"""The command line: its options are pinned, and every way to fail is one line and a code."""

from __future__ import annotations

import dataclasses
import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from coordinator.cli import main as cli
from edge_runtime.contract.errors import InfeasibleError, RemoteError

FIELDS = (
    *("--text-field", "--text-pair-field", "--label-field", "--prompt-field", "--ignore-field"),
    *("--completion-field", "--messages-field", "--source-field", "--target-field"),
)
CLUSTER = {"--emulate", "--devices", "--listen"}
USE = {*CLUSTER, "--ignore-field"}
GENERATION = {"--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed"}
OPTIONS = {
    "data": {"files", "--bundle", "--task", *FIELDS},
    "demo": {"-o", "--output", "--kill"},
    "devices": {"--remove", "--emulate"},
    "evaluate": {"run", "--data", "--bundle", "--generate", "--max-new-tokens"} | USE,
    "export": {
        *("model", "-o", "--output", "--task", "--quantize", "--max-length", "--ignore"),
        *("--calibration", "--adapter-init", "--adapter-reduction", "--adapter-heads"),
    },
    "forget": {"run", "--all", "--bundle", "--listen", "--wait"},
    "inspect": {"bundle"},
    "merge": {"run", "-o", "--output", "--bundle"},
    "pair": {"--listen", "--name"},
    "plan": {
        *("bundle", "--data", "--task", "--epochs", "--batch-size", "--cache-dtype"),
        "--max-length",
        *("--profiles", "--simulate", "--plot", "--reprofile", "--measure", "--loss"),
        *FIELDS,
        *CLUSTER,
    },
    "predict": {"run", "--text", "--data", "--bundle", *GENERATION} | USE,
    "train": {
        *("bundle", "--data", "--eval", "-o", "--output", "--task", "--epochs", "--batch-size"),
        *("--learning-rate", "--adapter", "--adapter-layers", "--reduction", "--seed", "--resume"),
        *("--adapter-heads", "--adapter-init", "--cache-dtype", "--cache-quota", "--plan"),
        *("--encrypt-cache", "--reprofile", "--wait", "--loss", "--keep", "--patience"),
        *("--weight-decay", "--schedule", "--tune", "--adapter-seed"),
        "--max-length",
        "--split",
        *FIELDS,
        *CLUSTER,
    },
}
PLAN = ["plan", "bundle", "--data", "data.jsonl"]
TRAIN = ["train", "bundle", "--data", "data.jsonl", "-o", "run"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture
def pacplus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """Runs the command line in an empty folder with a home of its own."""
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        captured = capsys.readouterr()
        return Ended(code=stopped.value.code or 0, out=captured.out, err=captured.err)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def training_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def arrange(error: BaseException) -> None:
        def train(*args: Any, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr("coordinator.api.train.train", train)

    return arrange


def commands() -> dict[str, Any]:
    cli._add_export_commands()
    group: Any = typer.main.get_command(cli.app)
    return dict(group.commands)


def test_the_commands_are_these() -> None:
    assert sorted(commands()) == sorted(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_pinned_and_each_command_speaks_json(name: str) -> None:
    found = {option for parameter in commands()[name].params for option in parameter.opts}
    assert found == OPTIONS[name] | {"--json"}


@pytest.mark.parametrize("name", OPTIONS)
def test_help_has_an_example(name: str, pacplus: Callable[..., Ended]) -> None:
    ended = pacplus(name, "--help")
    assert ended.code == 0
    assert f"Example: pacplus {name}" in " ".join(ended.out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["tarin"],
        ["train"],
        [*TRAIN, "--epoch", "3"],
        [*TRAIN, "--epochs", "three"],
        [*TRAIN, "--adapter", "lora"],
        [*TRAIN, "--epochs", "0"],
        [*TRAIN, "--batch-size", "0"],
        [*TRAIN, "--learning-rate", "-1"],
        [*TRAIN, "--reduction", "0"],
        [*TRAIN, "--adapter-heads", "0"],
        [*TRAIN, "--adapter-init", "zero"],
        [*TRAIN, "--task", "chat"],
        [*TRAIN, "--cache-quota", "2Q"],
        [*TRAIN, "--emulate", "toaster"],
        [*TRAIN, "--emulate", "laptop", "--devices", "all"],
        [*PLAN, "--profiles", "home.toml", "--emulate", "laptop"],
        [*PLAN, "--plot", "chart.png"],
        [*PLAN, "--max-length", "long"],
        [*TRAIN, "--max-length", "-3"],
        [*PLAN, "--plot", "absent/chart.svg"],
        ["merge", "run"],
        ["predict", "run"],
        ["predict", "run", "--text", "hello", "--data", "data.jsonl"],
        ["predict", "run", "--text", "hello", "--temperature", "-1"],
        ["predict", "run", "--text", "hello", "--top-p", "1.5"],
        ["predict", "run", "--text", "hello", "--top-k", "5"],
        ["predict", "run", "--text", "hello", "--seed", "5", "--temperature", "0"],
        ["predict", "run", "--text", "hello", "--max-new-tokens", "0"],
        ["evaluate", "run", "--data", "data.jsonl", "--max-new-tokens", "5"],
    ],
)
def test_wrong_options_end_with_2(arguments: list[str], pacplus: Callable[..., Ended]) -> None:
    ended = pacplus(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err
    assert not Path("run").exists()


def test_bad_input_is_one_line_and_leaves_nothing(pacplus: Callable[..., Ended]) -> None:
    ended = pacplus(*TRAIN, "--json")
    assert ended.code == 3
    assert ended.lines == [
        "pacplus: bundle: no such bundle; make one with: pacplus export MODEL -o bundle"
    ]
    assert ended.out == ""
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("file", "file: exists and is not empty"),
        ("file/run", "file/run: cannot be written: file: Not a directory"),
        (".", ".: exists and is not empty; choose another -o"),
        ("n" * 300, "File name too long"),
    ],
)
def test_where_nothing_can_be_written_is_said_before_anything_is_read(
    output: str, said: str, pacplus: Callable[..., Ended]
) -> None:
    Path("file").write_text("mine")
    ended = pacplus(*TRAIN[:-1], output)  # there is no bundle, which would be said next
    assert ended.code == 3
    assert said in ended.lines[-1]
    assert Path("file").read_text() == "mine"


def refuse(error: OSError) -> Callable[[], None]:
    def refusing() -> None:
        raise error

    return refusing


def test_what_the_system_refuses_is_one_line(
    pacplus: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/home/x")
    monkeypatch.setattr("coordinator.cluster.pairing.paired_devices", refuse(full))
    ended = pacplus("devices")
    assert ended.code == 3
    assert ended.lines == [
        "pacplus: /home/x: No space left on device; free space there, or choose another folder"
    ]


def test_what_the_system_says_of_a_bug_keeps_its_traceback(
    pacplus: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = OSError(errno.EBADF, "Bad file descriptor")
    monkeypatch.setattr("coordinator.cluster.pairing.paired_devices", refuse(bug))
    with pytest.raises(OSError, match="Bad file descriptor"):
        pacplus("devices")


NANO = '[[device]]\nname = "nano"\nlike = "jetson-nano"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "home.toml: has no device; add a [[device]] table with a name"),
        ("[[device]", "home.toml: is no TOML"),
        (NANO + "cores = -4", "home.toml: device 'nano'.cores: must be positive, not -4"),
        (NANO.replace("like", "cores = 4 #"), "home.toml: device 'nano'.link_bits_per_second: is"),
        (NANO.replace("jetson", "jet"), "home.toml: device 'nano'.like: unknown device 'jet-nano'"),
        (NANO + "count = 2\n[links.nano-1]", "home.toml: links.nano-1.nano-2: is missing"),
    ],
)
def test_a_wrong_file_of_devices_is_one_line(
    text: str, said: str, pacplus: Callable[..., Ended]
) -> None:
    Path("home.toml").write_text(text)
    ended = pacplus(*PLAN, "--profiles", "home.toml")
    assert (ended.code, ended.out, len(ended.lines)) == (3, "", 1)
    assert ended.lines[0].startswith(f"pacplus: {said}")


def test_a_plan_that_is_not_there_is_one_line(pacplus: Callable[..., Ended]) -> None:
    ended = pacplus(*TRAIN, "--plan", "plan.json")
    assert (ended.code, ended.lines) == (3, ["pacplus: plan.json: no such file"])
    assert not Path("run").exists()


def test_an_error_of_several_lines_becomes_one(
    pacplus: Callable[..., Ended], training_raises: Callable[[BaseException], None]
) -> None:
    training_raises(InfeasibleError("no plan fits:\n  laptop lacks 3 MB"))
    ended = pacplus(*TRAIN)
    assert (ended.code, ended.lines) == (4, ["pacplus: no plan fits: laptop lacks 3 MB"])


def test_a_bad_peer_ends_with_1(
    pacplus: Callable[..., Ended], training_raises: Callable[[BaseException], None]
) -> None:
    training_raises(RemoteError("laptop-1 sent nonsense"))
    ended = pacplus(*TRAIN)
    assert (ended.code, ended.lines) == (1, ["pacplus: laptop-1 sent nonsense"])


def test_a_bug_keeps_its_traceback(
    pacplus: Callable[..., Ended], training_raises: Callable[[BaseException], None]
) -> None:
    training_raises(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(TRAIN)


def test_a_missing_package_says_which_extra_has_it(
    pacplus: Callable[..., Ended], training_raises: Callable[[BaseException], None]
) -> None:
    training_raises(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    ended = pacplus(*TRAIN)
    assert ended.code == 3
    assert ended.lines == [
        "pacplus: torch is not installed; install it with: pip install 'pacplus[export]'"
    ]


def test_a_missing_module_of_ours_is_a_bug(
    pacplus: Callable[..., Ended], training_raises: Callable[[BaseException], None]
) -> None:
    training_raises(ModuleNotFoundError("No module named 'coordinator.x'", name="coordinator.x"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(TRAIN)


def test_interrupted_training_says_how_to_go_on(
    pacplus: Callable[..., Ended], training_raises: Callable[[BaseException], None]
) -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    training_raises(KeyboardInterrupt())
    ended = pacplus(*TRAIN)
    assert ended.code == 5
    assert ended.lines == [
        "pacplus: stopped; to go on with run, run the same command again with --resume"
    ]


def test_training_interrupted_before_it_began_promises_no_resume(
    pacplus: Callable[..., Ended], training_raises: Callable[[BaseException], None]
) -> None:
    training_raises(KeyboardInterrupt())
    ended = pacplus(*TRAIN)
    assert ended.code == 5
    assert "--resume" not in ended.err
    assert len(ended.lines) == 1


def test_devices_prints_one_json_object(pacplus: Callable[..., Ended]) -> None:
    ended = pacplus("devices", "--json")
    assert (ended.code, json.loads(ended.out), ended.err) == (0, {"devices": []}, "")


def test_unpairing_a_stranger_is_bad_input(pacplus: Callable[..., Ended]) -> None:
    ended = pacplus("devices", "--remove", "toaster")
    assert ended.code == 3
    assert ended.lines == ["pacplus: 'toaster' is not paired; paired are: none"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_waiting_command_tidily(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "coordinator.cli.main", "pair", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command,
        env={"PACPLUS_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert any("waiting" in line for line in process.stderr)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 5
    assert (out, err) == ("", "pacplus: stopped; nothing was lost, run it again\n")
