"""Nothing of the training data is in plain text on a wire, nor in an encrypted cache.

The search is shown to find it where it is in plain: on a connection without encryption, and in
a cache that is not encrypted.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import prepare
from coordinator.data import FieldNames
from edge_runtime.cache.store import ActivationCache
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.codec import encode
from edge_runtime.contract.tensors import read_tensors
from tests.conftest import TinyBundleMaker
from tests.end_to_end.capture import Capture, found, is_permitted
from tests.end_to_end.conftest import lines
from tests.end_to_end.test_training import write_plan
from tests.processes import succeed, write_jsonl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_permitted(), reason="raw sockets are not permitted here"),
]

Patterns = dict[str, list[bytes]]
LINES = 60


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Lines that no other test on this machine has."""
    every = lines(LINES, secrets.randbits(32))
    write_jsonl(tmp_path / "train.jsonl", every)
    return [line["text"] for line in every]


def run(home: Path, bundle: Path, folder: Path, name: str, *more: str) -> dict:
    """Two devices compute half of the model each, own half of the lines each, and train."""
    blocks = len(json.loads((bundle / "manifest.json").read_text())["blocks"])
    plan = write_plan(
        folder / "plan.json",
        {"laptop-1": (0, 2), "laptop-2": (2, blocks)},
        {"laptop-1": 4, "laptop-2": 4},
    )
    return succeed(
        *(home, "train", bundle, "--data", folder / "train.jsonl", "-o", folder / name),
        *("--emulate", "laptop,laptop", "--plan", plan, "--cache-dtype", "fp32"),
        *("--batch-size", "8", "--epochs", "2", "--json", *more),
    ).report


def data_patterns(bundle: Path, folder: Path, texts: list[str]) -> tuple[Patterns, np.ndarray]:
    """What the lines are, as text and as token ids; and the keys of the samples."""
    source = [str(folder / "train.jsonl")]
    prepared = prepare(
        *(bundle, source, None, None, AdapterChoice(), TrainingOptions(), FieldNames())
    )
    samples = prepared.tables["train"].samples
    ids = [samples.inputs["input_ids"][i] for i in range(len(samples))]
    return {
        "texts": [text.encode() for text in texts if len(text) >= 16],
        "token ids": [each.astype(kind).tobytes() for each in ids for kind in ("<i4", "<i8")],
        "keys of samples": [key.tobytes() for key in samples.keys],
    }, samples.keys


def cached_rows(home: Path, keys: np.ndarray) -> list[bytes]:
    """One row of each cached state of each sample, from the devices' plain caches."""
    rows = []
    for folder in sorted(home.glob("emulated/*/cache/*-fp32")):
        with ActivationCache(folder.parent, folder.name[:64], "fp32", 32, numerics="x") as cache:
            for key in keys[cache.held(keys, [1])]:
                _, encoded = cache.read_encoded(key[None], [0, 1, 2])
                rows += [layer[1].tobytes() for layer in encoded]
    return rows


def in_plain(patterns: Patterns) -> Capture:
    """The same bytes in real messages, sent over a connection that nobody encrypts."""
    states = [np.frombuffer(row, np.uint8)[None, None] for row in patterns["states"]]
    messages = [
        m.States(
            number=0,
            keys=np.zeros((1, 32), np.uint8),
            lengths=np.ones(1, np.int32),
            layers=(0,),
            encoded=each,
            numerics="x",
        )
        for each in states
    ]
    frames = [bytes(frame) for message in messages for frame in encode(message)]
    frames += [each for kind, every in patterns.items() if kind != "states" for each in every]
    with Capture() as capture, socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=send, args=(server.getsockname(), frames))
        sender.start()
        connection, _ = server.accept()
        with connection:
            while connection.recv(1 << 16):
                pass
        sender.join()
    return capture


def send(address: tuple[str, int], frames: Iterable[bytes]) -> None:
    with socket.create_connection(address) as connection:
        for frame in frames:
            connection.sendall(frame + b"|")


def files_of(home: Path) -> list[bytes]:
    return [path.read_bytes() for path in home.rglob("*") if path.is_file()]


def test_nothing_of_the_data_is_in_plain_on_any_wire_or_in_an_encrypted_cache(
    home: Path, tmp_path: Path, tiny_bundle: TinyBundleMaker, texts: list[str]
) -> None:
    bundle = tiny_bundle("bert", "none").path
    patterns, keys = data_patterns(bundle, tmp_path, texts)
    with Capture() as plain_run:
        report = run(home, bundle, tmp_path, "plain")
    patterns["states"] = cached_rows(home, keys)
    adapter = tmp_path / "plain" / "adapter" / "adapter_model.safetensors"
    tensors = read_tensors(adapter.read_bytes()).values()
    patterns["adapter"] = [
        array.tobytes()[:4096] for array in tensors if array.nbytes > 64 and array.any()
    ]
    assert len(patterns["states"]) >= 3 * LINES
    assert all(len(every) > 5 for every in patterns.values())

    other_home = home.parent / "home-encrypted"
    with Capture() as encrypted_run:
        run(other_home, bundle, tmp_path, "encrypted", "--encrypt-cache")

    nothing = dict.fromkeys(patterns, 0)
    sent = sum(device["sent_bytes"] for device in report["devices"])
    assert plain_run.bytes > sent > 100_000  # what was captured is what was sent
    assert found(patterns, plain_run.streams().values()) == nothing
    assert found(patterns, encrypted_run.streams().values()) == nothing
    assert found(patterns, files_of(other_home)) == nothing

    everything = {kind: len(set(every)) for kind, every in patterns.items()}
    assert found(patterns, in_plain(patterns).streams().values()) == everything
    on_disk = found(patterns, files_of(home))
    assert (on_disk["keys of samples"], on_disk["states"]) == (LINES, everything["states"])
