import json
import stat
from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.transport import KeyPair, KnownCoordinator, KnownCoordinators, PairedDevices


def test_a_taken_name_gets_a_number_and_a_known_key_keeps_its_name(tmp_path: Path) -> None:
    devices = PairedDevices(tmp_path / "devices.json")
    keys = [KeyPair.generate().public for _ in range(3)]
    names = [devices.add("Pixel 8", key, paired_at=1.0).device_id for key in keys]
    assert names == ["pixel-8", "pixel-8-2", "pixel-8-3"]
    assert devices.add("other name", keys[1], paired_at=2.0).device_id == "pixel-8-2"
    assert len(devices) == 3


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "😀", "a" * 500, "-x-", "\n\0", "CON"])
def test_whatever_a_device_calls_itself_becomes_a_safe_name(tmp_path: Path, name: str) -> None:
    devices = PairedDevices(tmp_path / "devices.json")
    device_id = devices.add(name, KeyPair.generate().public, paired_at=1.0).device_id
    assert device_id.replace("-", "").isalnum()
    assert device_id.isascii()
    assert len(device_id) <= 48


def test_paired_devices_are_found_again_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    entry = PairedDevices(path).add("board", KeyPair.generate().public, paired_at=1.5)
    assert list(PairedDevices(path)) == [entry]
    assert PairedDevices(path).get(DeviceId("board")) == entry
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_removed_device_is_gone_and_its_name_is_free(tmp_path: Path) -> None:
    devices = PairedDevices(tmp_path / "devices.json")
    devices.add("board", KeyPair.generate().public, paired_at=1.0)
    assert devices.remove(DeviceId("board"))
    assert not devices.remove(DeviceId("board"))
    assert list(PairedDevices(tmp_path / "devices.json")) == []
    assert devices.add("board", KeyPair.generate().public, paired_at=1.0).device_id == "board"


def test_changes_by_two_processes_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    one, other = PairedDevices(path), PairedDevices(path)
    one.add("a", KeyPair.generate().public, paired_at=1.0)
    other.add("b", KeyPair.generate().public, paired_at=1.0)
    one.reload()
    assert [device.device_id for device in one] == ["a", "b"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format_version": 2}', '{"more": 1}'])
def test_a_broken_file_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "devices.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(BadInputError, match=r"devices\.json"):
        PairedDevices(path)
    assert path.read_text() == content


@pytest.mark.parametrize("change", [{"device_id": "../x"}, {"public_key": "short"}, {}])
def test_a_file_with_an_impossible_entry_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    path = tmp_path / "devices.json"
    PairedDevices(path).add("board", KeyPair.generate().public, paired_at=1.0)
    content = json.loads(path.read_text())
    content["devices"].append({**content["devices"][0], **change})  # no change: it is there twice
    path.write_text(json.dumps(content))
    with pytest.raises(BadInputError, match=r"devices\.json"):
        PairedDevices(path)


def test_a_coordinator_that_moved_is_known_once(tmp_path: Path) -> None:
    path = tmp_path / "coordinators.json"
    known = KnownCoordinators(path)
    assert known.latest() is None
    key, other = KeyPair.generate().public, KeyPair.generate().public
    for address, public in (("10.0.0.1:1", key), ("10.0.0.2:2", other), ("10.0.0.9:9", key)):
        known.add(KnownCoordinator(address=address, public_key=public, device_id=DeviceId("board")))
    assert [entry.address for entry in KnownCoordinators(path)] == ["10.0.0.2:2", "10.0.0.9:9"]
    latest = KnownCoordinators(path).latest()
    assert latest is not None
    assert latest.public_key == key
