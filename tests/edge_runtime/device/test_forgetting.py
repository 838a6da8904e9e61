"""What a device deletes, and what it leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import pytest

from edge_runtime.backbone.loaded_stage import LoadedStage
from edge_runtime.cache.keys import KEY_FILE, CacheKeys
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FileSpec, uint8_name
from edge_runtime.contract.messages import Forget, Forgotten
from edge_runtime.device.forgetting import forget
from edge_runtime.device.warm import Warm
from edge_runtime.inference.paired_files import PAIRED_FOLDER, paired_paths
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.serving.loaded_adapter import LoadedAdapter
from edge_runtime.training.replica import Replica
from tests.edge_runtime.cache.samples import DIGEST, append, open_cache
from tests.edge_runtime.device.test_device import ScriptedLink, device_of

OTHER = "cd" * 32


def spec(path: str) -> FileSpec:
    content = path.encode()
    return FileSpec(
        path=path, bytes=len(content), sha256=Sha256(hashlib.sha256(content).hexdigest())
    )


MINE, SHARED, ADAPTER = spec("weights/w-1.bin"), spec("weights/w-2.bin"), spec("adapter.onnx")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Caches of two backbones, one of them encrypted too, and what they were computed with."""
    for key in (None, CacheKeys(tmp_path).key()):
        with open_cache(tmp_path / "cache", key=key) as cache:
            append(cache, [1])
    (tmp_path / "cache" / f"{OTHER}-fp16").mkdir()
    store = WeightStore(tmp_path / "weights")
    for each in (MINE, SHARED, ADAPTER):
        store.path(each).write_bytes(b"content")
    (store.folder / uint8_name("w-1.bin")).write_bytes(b"as uint8")
    for path in paired_paths(store, MINE):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"limited")
    WeightStore(store.folder / PAIRED_FOLDER).write_graph(b"a limited graph of w-1.bin")
    store.write_graph(b"a graph that refers to w-1.bin")
    store.write_graph(b"a graph that refers to w-2.bin")
    (tmp_path / "profile-abc").mkdir()
    (tmp_path / "keypair.json").write_text("its identity")
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_backbone_goes_with_its_caches_files_and_graphs_and_the_rest_stays(home: Path) -> None:
    request = Forget(backbone_digest=Sha256(DIGEST), files=(MINE, ADAPTER))
    answer = forget(home, request, CacheKeys(home))
    assert not answer.refused
    assert answer.bytes > 200
    assert names(home / "cache") == {f"{OTHER}-fp16"}
    graph = hashlib.sha256(b"a graph that refers to w-2.bin").hexdigest()[:16]
    assert names(home / "weights") == {"w-2.bin", f"stage-{graph}.onnx", PAIRED_FOLDER}
    assert names(home / "weights" / PAIRED_FOLDER) == set()
    assert {KEY_FILE, "keypair.json"} <= names(home)


def test_everything_goes_but_the_devices_identity(home: Path) -> None:
    keys = CacheKeys(home)
    before = keys.key()
    assert not forget(home, Forget(everything=True), keys).refused
    assert names(home / "cache") == names(home / "weights") == set()
    assert names(home) == {"cache", "weights", "keypair.json"}
    assert keys.key() != before  # what is cached from now on has another key


def test_a_cache_in_use_is_refused_and_keeps_its_key_while_all_else_goes(home: Path) -> None:
    with open_cache(home / "cache", key=CacheKeys(home).key()) as cache:
        answer = forget(home, Forget(everything=True), CacheKeys(home))
        assert "is in use by another process" in answer.refused
        assert names(home / "cache") == {cache.folder.name}
    assert names(home / "weights") == set()
    assert (home / KEY_FILE).exists()


def test_an_empty_home_has_nothing_to_forget(tmp_path: Path) -> None:
    answer = forget(tmp_path, Forget(everything=True), CacheKeys(tmp_path))
    assert (answer.bytes, answer.refused) == (0, "")


def test_a_device_that_forgets_holds_nothing_in_memory_either(home: Path) -> None:
    warm = Warm(available_bytes=lambda: 1 << 40)
    warm.replica.put(cast(Replica, object()))
    warm.keep(cast(LoadedStage, object()), cast(LoadedAdapter, object()))
    link = ScriptedLink(([Forget(everything=True)], []))
    device = device_of(link, home, warm)
    assert device.run() == "shutdown"
    assert [type(message) for message in link.sent] == [Forgotten]
    assert device._trainer.replica is None
    assert warm.replica.take() is None
    assert not warm.holds
