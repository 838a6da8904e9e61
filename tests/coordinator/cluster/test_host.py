import os
import time
from pathlib import Path

import pytest

from coordinator.cluster.host import Cluster, open_host
from coordinator.cluster.local_devices import CONDITION
from coordinator.cluster.pairing import paired_devices
from devices.specification import parse_emulate
from edge_runtime.contract.codec import decode_tagged
from edge_runtime.contract.errors import InfeasibleError, UsageError
from edge_runtime.contract.messages import Hello
from edge_runtime.transport import KeyPair, PairedDevices


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path))
    tmp_path.chmod(0o700)
    return tmp_path


def test_a_local_device_is_paired_for_local_runs_only(home):
    with open_host(Cluster()) as host:
        assert host.devices == ("this-machine",)
        assert list(host.public_keys) == ["this-machine"]
    assert paired_devices() == []
    assert len(PairedDevices(home / "emulated" / "devices.json")) == 1
    with (
        pytest.raises(InfeasibleError, match="no device is paired"),
        open_host(Cluster(devices=("all",), listen="127.0.0.1:0")),
    ):
        pass


def test_all_are_the_devices_that_were_paired_by_hand(home):
    PairedDevices(home / "devices.json").add("pi", KeyPair.generate().public, paired_at=0.0)
    with open_host(Cluster(devices=("all",), listen="127.0.0.1:0")) as host:
        assert (host.devices, list(host.public_keys), host.local) == (("pi",), ["pi"], None)


def test_a_device_named_twice_is_named():
    with pytest.raises(UsageError, match="names pi twice"):
        Cluster(devices=("laptop", "pi", "pi"))


def test_emulated_and_paired_devices_exclude_each_other():
    with pytest.raises(UsageError, match="exclude each other"):
        Cluster(devices=("pi",), emulate=parse_emulate("laptop"))


def test_emulated_devices_are_held_to_their_processors_before_they_join(home):
    cluster = Cluster(emulate=parse_emulate("laptop,raspberry-pi-5,laptop:cpu=0.5"))
    with open_host(cluster) as host:
        assert host.devices == ("laptop-1", "raspberry-pi-5-1", "laptop-2")
        if not host.local._cluster.enforcement.cpu:
            assert os.geteuid() != 0
            return
        wanted = {
            device: host.local._cluster.quota_cores(process.device)
            for device, process in host.local._processes.items()
        }
        found = {}
        while len(found) < 3:
            received = host.router.recv(30.0)
            assert received is not None
            _, message = decode_tagged(received.frames)
            if isinstance(message, Hello):
                found[received.device] = message.cores
    assert found == pytest.approx(wanted, rel=0.01)


def test_an_emulated_device_joins_once_its_battery_allows_it(home):
    condition = home / "emulated" / "pixel-8-1" / CONDITION
    log = home / "logs" / "pixel-8-1.log"
    deadline = time.monotonic() + 30
    with open_host(Cluster(emulate=parse_emulate("pixel-8:battery=12%"))) as host:
        while "waits before it joins: its battery is at 12%" not in log.read_text():
            assert host.router.recv(0.05) is None, "it joins below its limit"
            assert time.monotonic() < deadline
        # Whoever rewrites the file changes the battery of a device that runs.
        condition.write_text('{"battery": 0.12, "charging": true}')
        received = host.router.recv(30.0)
    assert received is not None
    assert received.device == "pixel-8-1"
