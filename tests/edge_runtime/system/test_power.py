from pathlib import Path

import pytest

from edge_runtime.system.power import POWER_SUPPLIES, Power, read_power


def supply(root: Path, name: str, **files: str) -> None:
    folder = root / POWER_SUPPLIES / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(f"{text}\n")


def test_a_laptop_on_battery_and_on_its_charger(tmp_path: Path) -> None:
    supply(tmp_path / "a", "BAT0", type="Battery", capacity="37", status="Discharging")
    supply(tmp_path / "a", "AC", type="Mains", online="0")
    assert read_power(tmp_path / "a") == Power(battery=0.37, charging=False)
    supply(tmp_path / "b", "BAT0", type="Battery", capacity="80", status="Not charging")
    supply(tmp_path / "b", "AC", type="Mains", online="1")
    assert read_power(tmp_path / "b") == Power(battery=0.8, charging=True)


def test_nothing_is_known_of_a_machine_without_battery(tmp_path: Path) -> None:
    assert read_power(tmp_path) == Power()
    supply(tmp_path, "BAT0", type="Battery")
    assert read_power(tmp_path) == Power()


@pytest.mark.parametrize(
    ("files", "battery"),
    [
        ({"capacity": "104"}, 1.0),
        ({"capacity": "-1"}, 0.0),
        ({"capacity": "full"}, None),
        ({"charge_now": "1500000", "charge_full": "3000000"}, 0.5),
        ({"energy_now": "9", "energy_full": "0"}, None),
        ({"capacity": "50", "present": "0"}, None),
        ({"capacity": "50", "scope": "Device"}, None),
    ],
)
def test_odd_gauges(tmp_path: Path, files: dict[str, str], battery: float | None) -> None:
    supply(tmp_path, "battery", type="Battery", **files)
    assert read_power(tmp_path).battery == battery


def test_a_charger_too_weak_for_the_load_is_none(tmp_path: Path) -> None:
    supply(tmp_path, "battery", type="Battery", capacity="9", status="Discharging")
    supply(tmp_path, "usb", type="USB", online="1")
    assert read_power(tmp_path).charging is False


def test_unreadable_files_are_unknown_values(tmp_path: Path) -> None:
    supply(tmp_path, "battery", type="Battery", status="Charging")
    (tmp_path / POWER_SUPPLIES / "battery" / "capacity").mkdir()
    assert read_power(tmp_path) == Power(battery=None, charging=True)
