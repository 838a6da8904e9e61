"""A device without PyTorch joins by the commands that a user types, serves and answers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from edge_runtime.transport import PairingToken
from tests.conftest import BundleMaker, TinyBundleMaker
from tests.processes import (
    ROOT,
    Ended,
    environment,
    events,
    finish,
    start,
    succeed,
    wait_for_event,
    write_jsonl,
)
from tests.runs import LABELS, finished_run

ABSENT = ("torch", "transformers", "onnx", "onnx_ir", "tokenizers", "typer", "rich")
MEMORY_BYTES = 150e6
SAMPLES = 600
STOPPED, BAD_INPUT = 5, 3
TEXTS = ["the cat was very good", "stop", "a bad film in the rain is not it", "play music"]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of an environment with ``pacplus[edge]`` and nothing else."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{ROOT}[edge]"], check=True, cwd=folder)
    return folder / "bin"


@pytest.fixture
def listen() -> str:
    """An address whose port and the next one, for pairing, are free."""
    while True:
        with socket.socket() as control, socket.socket() as pairing:
            control.bind(("127.0.0.1", 0))
            port = control.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                pairing.bind(("127.0.0.1", port + 1))
                return f"127.0.0.1:{port}"


class Device:
    """A device with an own home, run from an environment of its own or from this one."""

    def __init__(self, name: str, home: Path, bin_folder: Path | None = None) -> None:
        self.name, self.home = name, home
        program = bin_folder / "pacplus-device" if bin_folder else None
        self._command = [program] if program else [sys.executable, "-m", "edge_runtime"]
        self._environment = environment(home)
        if program:
            del self._environment["PYTHONPATH"]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*map(str, self._command), *arguments, "--home", str(self.home)],
            env=self._environment,
            cwd=self.home.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> Ended:
        return finish(self.start(*arguments))


@contextlib.contextmanager
def pairing(home: Path, listen: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """``pacplus pair`` in a process, and the address and the token that it shows."""
    process = start(home, "pair", "--listen", listen, "--json")
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"pacplus-device pair (\S+) (\S+)", line):
                yield process, found[1], found[2]
                return
        raise AssertionError(finish(process).err)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        if process.stdout is not None and not process.stdout.closed:
            finish(process)


def pair(home: Path, listen: str, device: Device) -> None:
    with pairing(home, listen) as (process, address, token):
        ended = device.run("pair", address, token, "--name", device.name)
        assert ended.code == 0, ended.err
        assert finish(process).report == {"device": device.name}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    lines = (ROOT / "examples" / "assistant-train.jsonl").read_text().splitlines()[:SAMPLES]
    return write_jsonl(tmp_path / "train.jsonl", [json.loads(line) for line in lines])


def test_what_a_light_device_does_not_need_is_absent(light: Path) -> None:
    for name in ABSENT:
        tried = subprocess.run([light / "python", "-c", f"import {name}"], capture_output=True)
        assert tried.returncode != 0, f"{name} can be imported"
    info = subprocess.run(
        [light / "pacplus-device", "info", "--json", "--home", light.parent / "home"],
        capture_output=True,
        check=True,
    )
    assert json.loads(info.stdout)["roles"] == ["backbone"]


def test_a_light_device_serves_half_of_minilm_in_little_memory(
    light: Path,
    home: Path,
    listen: str,
    samples: Path,
    minilm_bundle: BundleMaker,
    tmp_path: Path,
) -> None:
    bundle = minilm_bundle("int8").path
    phone, board = Device("phone", home / "phone", light), Device("board", home / "board")
    home.mkdir(mode=0o700)
    for device in (phone, board):
        pair(home, listen, device)
    known = succeed(home, "devices", "--json").report["devices"]
    assert [device["device"] for device in known] == ["phone", "board"]

    starting = ("start", "--once", "--threads", "1")
    running = [device.start(*starting) for device in (phone, board)]
    try:
        report = succeed(
            *(home, "train", bundle, "--data", samples, "-o", tmp_path / "run", "--epochs", "1"),
            *("--devices", "all", "--listen", listen, "--json"),
        ).report
    except BaseException:
        for process in running:
            process.kill()
        raise
    finally:
        ended = [finish(process) for process in running]
    assert [device.code for device in ended] == [0, 0], ended

    served = {device["id"]: device for device in report["devices"]}
    assert served["phone"]["roles"] == ["backbone"]
    assert served["phone"]["shards"] == 0
    assert served["phone"]["served_batches"] > 0
    first, last = served["phone"]["blocks"]
    assert last - first >= 3, report["plan"]["stages"]
    assert served["board"]["shards"] > 0
    assert report["fill"]["computed"] == SAMPLES
    assert report["epochs"][-1]["train_loss"] < 1.9
    assert served["phone"]["peak_rss_bytes"] < MEMORY_BYTES


def test_a_device_without_pytorch_answers_alone(
    light: Path, home: Path, listen: str, tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    bundle = tiny_bundle("bert", "int8")
    run, model = finished_run(bundle, tmp_path / "run"), tmp_path / "model.onnx"
    phone = Device("phone", home / "phone", light)
    home.mkdir(mode=0o700)
    pair(home, listen, phone)
    running = phone.start("start", "--once", "--threads", "1")
    try:
        texts = [argument for text in TEXTS for argument in ("--text", text)]
        predicted = succeed(
            *(home, "predict", run, *texts, "--devices", "phone", "--listen", listen, "--json")
        ).report["predictions"]
    except BaseException:
        running.kill()
        raise
    finally:
        ended = finish(running)
    assert ended.code == 0, ended

    succeed(home, "merge", run, "-o", model, "--json")
    expected = probabilities(model, bundle.tokenizer_path, TEXTS)
    scores = [[each["scores"][label] for label in LABELS] for each in predicted]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.01
    assert [each["label"] for each in predicted] == [LABELS[i] for i in expected.argmax(1)]


def probabilities(model: Path, tokenizer: Path, texts: list[str]) -> np.ndarray:
    """What a merged model says, by nothing but its file and a tokenizer."""
    encoded = Tokenizer.from_file(str(tokenizer))
    encoded.enable_padding()
    rows = encoded.encode_batch(texts)
    feeds = {
        "input_ids": np.array([row.ids for row in rows]),
        "token_type_ids": np.array([row.type_ids for row in rows]),
        "attention_mask": np.array([row.attention_mask for row in rows]),
    }
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], feeds)
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize("slip", ["another character", "another secret"])
def test_a_wrong_token_pairs_nobody(slip: str, home: Path, listen: str) -> None:
    home.mkdir(mode=0o700)
    thief = Device("thief", home / "thief")
    with pairing(home, listen) as (_, address, token):
        wrong = token[:20] + ("a" if token[20] != "a" else "b") + token[21:]
        if slip == "another secret":
            key = PairingToken.parse(token).coordinator_key
            wrong = PairingToken.generate(key).text()
        ended = thief.run("pair", address, wrong)
    assert ended.code == BAD_INPUT, ended.err
    assert "token" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert succeed(home, "devices", "--json").report == {"devices": []}
    assert thief.run("start", "--once").code == BAD_INPUT  # not paired


def test_a_removed_device_cannot_come_back(
    home: Path, listen: str, tiny_bundle: TinyBundleMaker, samples: Path, tmp_path: Path
) -> None:
    home.mkdir(mode=0o700)
    board, lost = Device("board", home / "board"), Device("lost", home / "lost")
    for device in (board, lost):
        pair(home, listen, device)
    left = succeed(home, "devices", "--remove", "lost", "--json").report["devices"]
    assert [device["device"] for device in left] == ["board"]

    bundle, run = tiny_bundle("bert", "int8").path, tmp_path / "run"
    waiting = start(
        *(home, "train", str(bundle), "--data", str(samples), "-o", str(run)),
        *("--devices", "all", "--listen", listen),
    )
    try:
        wait_for_event(waiting, run, lambda event: event["event"] == "coordinator_listening")
        ended = lost.run("start", "--once")
        assert ended.code == STOPPED, ended.err
        assert "no longer knows this device; pair it again" in ended.err
    finally:
        os.kill(waiting.pid, signal.SIGINT)
        assert finish(waiting).code == STOPPED
    assert "device_joined" not in {event["event"] for event in events(run)}
