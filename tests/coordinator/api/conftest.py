"""Bundles that have no more than a tokenizer, and data files."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FileSpec, HeadSpec, Manifest
from tests.coordinator.bundles import IDS, MASK, SEP, bundle, manifest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A bundle of three blocks of four channels, with a tokenizer."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    plain = manifest(IDS, MASK)
    blocks = tuple(dataclasses.replace(plain.blocks[0], name=f"layer.{i}") for i in range(3))
    (bundle(folder) / "manifest.json").write_text(
        dataclasses.replace(plain, blocks=blocks).to_json()
    )
    return folder


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, lines) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def decoder(model) -> Path:
    """The same bundle as a decoder-only language model."""
    plain = Manifest.from_json((model / "manifest.json").read_text())
    streams = {"stream": "decoder"}
    (model / "head.safetensors").write_bytes(b"x")
    digest = Sha256(hashlib.sha256(b"x").hexdigest())
    changed = dataclasses.replace(
        plain,
        task="causal-lm",
        blocks=tuple(dataclasses.replace(block, **streams) for block in plain.blocks),
        inputs=tuple(dataclasses.replace(spec, **streams) for spec in plain.inputs),
        files=(FileSpec(path="head.safetensors", bytes=1, sha256=digest),),
        head=HeadSpec(path="head.safetensors", vocab_size=8),
        eos_token_ids=(SEP,),
    )
    (model / "manifest.json").write_text(changed.to_json())
    return model
