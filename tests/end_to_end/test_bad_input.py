"""Bad input gets one clear line and its exit code, and leaves nothing behind.

Where a command ends before any device is started it runs in this process, which saves
the second that its imports take.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main as cli
from tests.conftest import TinyBundleMaker
from tests.processes import Ended, pacplus, processes_of, write_jsonl

GOOD = [{"text": "the cat is good", "label": "good"}, {"text": "the dog is bad", "label": "bad"}]
BAD_INPUT, INFEASIBLE, USAGE = 3, 4, 2

Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: TinyBundleMaker) -> Path:
    return tiny_bundle("bert", "int8").path


@pytest.fixture
def run_here(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs ``pacplus`` in this process."""
    monkeypatch.setenv("PACPLUS_HOME", str(home))
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str | Path) -> Ended:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = stopped.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def finished_run(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows the labels ``bad`` and ``good``; commands read it, nothing trains."""
    import numpy as np

    from coordinator.api.adapter_config import AdapterChoice
    from coordinator.api.inputs import prepare, run_settings
    from coordinator.runs.run_folder import RunFolder
    from edge_runtime.contract.adapter import TrainingOptions
    from edge_runtime.parallel_adapters import Trainer

    folder = tmp_path_factory.mktemp("finished")
    data = write_jsonl(folder / "train.jsonl", GOOD)
    options, choice = TrainingOptions(), AdapterChoice()
    prepared = prepare(bundle, data, None, "classification", choice, options, None)
    settings = run_settings(prepared, None, "fp16")
    run = RunFolder.create(folder / "run", settings)
    trainer = Trainer(prepared.config, options, 1)
    assert np.isfinite(trainer.flat_parameters).all()
    from edge_runtime.contract.adapter import adapter_weights

    run.write_adapter(prepared.config, adapter_weights(trainer.state()))
    return run.path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A data file and what is said of it, besides its name."""

    content: bytes | None
    said: tuple[str, ...]
    needs_labels: bool = False


def as_lines(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


FILES = {
    "missing": Wrong(content=None, said=("no such file",)),
    "empty": Wrong(content=b"", said=("is empty", "one JSON object a line")),
    "not JSON": Wrong(
        content=as_lines(GOOD[0]) + b"{'text': 'hello'}\n", said=("line 2", "not JSON")
    ),
    "no object": Wrong(content=b'"text"\n', said=("line 1", "expected a JSON object")),
    "no text": Wrong(
        content=as_lines(*GOOD, {"label": "bad"}), said=("line 3", "'text'", "line 1 has")
    ),
    "no label": Wrong(
        content=as_lines(*GOOD, {"text": "the"}),
        said=("line 3", "'label'", "line 1 has"),
        needs_labels=True,
    ),
    "label of a wrong kind": Wrong(
        content=as_lines(*GOOD, {"text": "the", "label": [1]}),
        said=("line 3", "'label'", "[1]"),
        needs_labels=True,
    ),
    "not UTF-8": Wrong(
        content=as_lines(GOOD[0]) + b'{"text": "caf\xe9", "label": "bad"}\n',
        said=("line 2", "not UTF-8", "save the file as UTF-8"),
    ),
}


def assert_one_line(ended: Ended, code: int, *said: str | Path) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("pacplus: ")
    for words in said:
        assert str(words) in line


def assert_nothing_was_made(home: Path, *outputs: Path) -> None:
    assert not any(output.exists() for output in outputs)
    assert not (home / "emulated").exists()
    assert list(processes_of(home)) == []


def wrong_file(folder: Path, wrong: Wrong) -> Path:
    path = folder / "wrong.jsonl"
    if wrong.content is not None:
        path.write_bytes(wrong.content)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_bad_training_data(
    kind: str, run_here: Run, home: Path, bundle: Path, tmp_path: Path
) -> None:
    path = wrong_file(tmp_path, FILES[kind])
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    run = tmp_path / "run"
    for arguments in (
        ["train", bundle, "--data", path, "-o", run, "--json"],
        ["train", bundle, "--data", good, "--eval", path, "-o", run],
        ["plan", bundle, "--data", path],
    ):
        assert_one_line(run_here(*arguments), BAD_INPUT, path, *FILES[kind].said)
        assert_nothing_was_made(home, run)


@pytest.mark.parametrize("kind", FILES)
def test_bad_data_for_a_finished_run(
    kind: str, run_here: Run, home: Path, finished_run: Path, tmp_path: Path
) -> None:
    path = wrong_file(tmp_path, FILES[kind])
    ended = run_here("evaluate", finished_run, "--data", path, "--json")
    assert_one_line(ended, BAD_INPUT, path, *FILES[kind].said)
    if not FILES[kind].needs_labels:
        ended = run_here("predict", finished_run, "--data", path)
        assert_one_line(ended, BAD_INPUT, path, *FILES[kind].said)
    assert_nothing_was_made(home)


def test_an_evaluation_label_that_training_does_not_know(
    run_here: Run, home: Path, bundle: Path, finished_run: Path, tmp_path: Path
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    path = write_jsonl(tmp_path / "eval.jsonl", [*GOOD, {"text": "the", "label": "stop"}])
    run = tmp_path / "run"
    said = (path, "line 3", "'label' is 'stop'", "'bad', 'good'")
    ended = run_here("train", bundle, "--data", good, "--eval", path, "-o", run)
    assert_one_line(ended, BAD_INPUT, *said)
    assert_one_line(run_here("evaluate", finished_run, "--data", path), BAD_INPUT, *said)
    assert_nothing_was_made(home, run)


def test_a_folder_that_is_no_bundle(run_here: Run, home: Path, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    run, folder = tmp_path / "run", tmp_path / "folder"
    folder.mkdir()
    commands: list[list[str | Path]] = [
        ["train", folder, "--data", good, "-o", run],
        ["plan", folder, "--data", good],
        ["inspect", folder],
    ]
    for arguments in commands:
        assert_one_line(run_here(*arguments), BAD_INPUT, folder, "manifest.json")
    for command in (["evaluate", folder, "--data", good], ["predict", folder, "--text", "the"]):
        assert_one_line(run_here(*command), BAD_INPUT, folder, "is missing")
    assert_nothing_was_made(home, run)


def test_one_flipped_byte_in_a_weight_file(
    run_here: Run, home: Path, bundle: Path, finished_run: Path, tmp_path: Path
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    run, copy = tmp_path / "run", tmp_path / "copy"
    shutil.copytree(bundle, copy)
    damaged = sorted((copy / "weights").iterdir())[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    commands: list[list[str | Path]] = [
        ["train", copy, "--data", good, "-o", run],
        ["plan", copy, "--data", good],
        ["inspect", copy],
        ["evaluate", finished_run, "--data", good, "--bundle", copy],
        ["predict", finished_run, "--text", "the cat", "--bundle", copy],
    ]
    for arguments in commands:
        ended = run_here(*arguments)
        assert_one_line(ended, BAD_INPUT, damaged, "is damaged", "export the model again")
    assert_nothing_was_made(home, run)


def test_a_folder_that_is_no_model(run_here: Run, tmp_path: Path) -> None:
    folder, output = tmp_path / "folder", tmp_path / "bundle"
    folder.mkdir()
    ended = run_here("export", folder, "-o", output)
    assert_one_line(ended, BAD_INPUT, folder, "config.json")
    assert not output.exists()


def test_an_unsupported_architecture(run_here: Run, tmp_path: Path) -> None:
    folder, output = tmp_path / "mamba", tmp_path / "bundle"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    ended = run_here("export", folder, "-o", output)
    assert_one_line(ended, BAD_INPUT, "mamba", "bert")
    assert not output.exists()


def test_an_output_folder_that_is_not_empty_is_left_alone(
    run_here: Run, home: Path, bundle: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    output = tmp_path / "precious"
    output.mkdir()
    (output / "mine.txt").write_text("precious")
    ended = run_here("train", bundle, "--data", good, "-o", output)
    assert_one_line(ended, BAD_INPUT, output, "not empty", "choose another -o")
    assert "--resume" not in ended.err, "there is no run to go on with"
    ended = run_here("export", tiny_model("bert"), "-o", output)
    assert_one_line(ended, BAD_INPUT, output, "not an empty folder")
    assert [path.name for path in output.iterdir()] == ["mine.txt"]
    assert_nothing_was_made(home)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "many"], "--epochs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--reduction", "0"], "--reduction"),
        (["--adapter", "lora"], "--adapter"),
        (["--cache-dtype", "fp8"], "--cache-dtype"),
        (["--cache-quota", "much"], "--cache-quota"),
        (["--seed", "-1"], "--seed"),
        (["--task", "translation"], "--task"),
        (["--emulate", "toaster"], "toaster"),
        (["--emulate", "laptop:memory=lots"], "memory"),
        (["--emulate", "laptop", "--devices", "all"], "--devices"),
        (["--devices", "all", "--listen", "here"], "here"),
    ],
)
def test_wrong_option_values(
    options: list[str], said: str, run_here: Run, home: Path, bundle: Path, tmp_path: Path
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    run = tmp_path / "run"
    ended = run_here("train", bundle, "--data", good, "-o", run, *options)
    assert ended.code == USAGE, ended.err
    assert ended.out == ""
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert_nothing_was_made(home, run)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--adapter-layers", "9"], "adapter layers '9'"),
        (["--adapter-layers", "every:0"], "adapter layers 'every:0'"),
        (["--reduction", "1000"], "reduction"),
    ],
)
def test_adapters_that_the_bundle_does_not_allow(
    options: list[str], said: str, run_here: Run, home: Path, bundle: Path, tmp_path: Path
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    run = tmp_path / "run"
    ended = run_here("train", bundle, "--data", good, "-o", run, *options)
    assert_one_line(ended, BAD_INPUT, said)
    assert_nothing_was_made(home, run)


def test_no_paired_device_is_infeasible(
    run_here: Run, home: Path, bundle: Path, tmp_path: Path
) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    run = tmp_path / "run"
    ended = run_here("train", bundle, "--data", good, "-o", run, "--devices", "all")
    assert ended.code == INFEASIBLE
    assert "pacplus pair" in ended.err.splitlines()[-1]
    assert_nothing_was_made(home, run)


def test_a_device_that_never_comes_is_named(
    run_here: Run, home: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.transport import KeyPair, PairedDevices

    monkeypatch.setattr("coordinator.session.goals.measuring.GATHER_SECONDS", 0.5)
    home.mkdir(mode=0o700)
    PairedDevices(home / "devices.json").add("old-phone", KeyPair.generate().public, paired_at=0.0)
    good = write_jsonl(tmp_path / "good.jsonl", GOOD)
    run = tmp_path / "run"
    arguments = ["--devices", "all", "--listen", "127.0.0.1:0"]
    ended = run_here("train", bundle, "--data", good, "-o", run, *arguments)
    assert ended.code == INFEASIBLE
    assert "old-phone did not join" in ended.err.splitlines()[-1]
    assert_nothing_was_made(home, run)


def test_too_little_memory(home: Path, bundle: Path, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", GOOD * 8)
    run = tmp_path / "run"
    ended = pacplus(
        *(home, "train", bundle, "--data", good, "-o", run, "--batch-size", "2"),
        *("--emulate", "laptop:memory=150M"),
    )
    assert ended.code == INFEASIBLE, ended.err
    assert "laptop-1" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert not run.exists()
    assert list(processes_of(home)) == []


def test_a_text_that_is_too_long_is_truncated_counted_and_said(
    home: Path, bundle: Path, tmp_path: Path
) -> None:
    limit = json.loads((bundle / "manifest.json").read_text())["max_length"]
    long = {"text": "the cat " * limit, "label": "bad"}
    data = write_jsonl(tmp_path / "data.jsonl", [*GOOD, long, long])
    run = tmp_path / "run"
    ended = pacplus(
        *(home, "train", bundle, "--data", data, "-o", run, "--epochs", "1"),
        *("--batch-size", "2", "--json"),
    )
    assert ended.code == 0, ended.err
    assert ended.report["truncated"] == 2
    said = " ".join(ended.err.split())
    assert f"2 of {len(GOOD) + 2} lines are longer than {limit} tokens and were cut: " in said
    assert ended.report["truncated_lines"][0].endswith(f"data.jsonl, line {len(GOOD) + 1}")
    assert ended.report["fill"]["tokens"] <= 3 * limit  # two of the four texts are one
