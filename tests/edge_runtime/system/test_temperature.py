from pathlib import Path

import pytest

from edge_runtime.system.temperature import THERMAL_ZONES, hottest, read_celsius


def zones(root: Path, *found: tuple[str, str]) -> Path:
    for number, (kind, text) in enumerate(found):
        folder = root / THERMAL_ZONES / f"thermal_zone{number}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{kind}\n")
        (folder / "temp").write_text(f"{text}\n")
    return root


def test_the_hottest_processor_counts_and_not_its_charger(tmp_path: Path) -> None:
    found = [("battery", "39000"), ("cpu-0-0-usr", "61500"), ("cpu-1-0-usr", "72000")]
    assert read_celsius(zones(tmp_path, *found, ("charger", "95000"))) == 72.0


@pytest.mark.parametrize(
    ("text", "celsius"),
    [("45000", 45.0), ("45", 45.0), ("0", None), ("-273000", None), ("hot", None), ("", None)],
)
def test_thousandths_and_degrees_and_sensors_that_are_off(
    tmp_path: Path, text: str, celsius: float | None
) -> None:
    assert read_celsius(zones(tmp_path, ("acpitz", text))) == celsius


def test_nothing_is_known_without_zones(tmp_path: Path) -> None:
    assert read_celsius(tmp_path) is None


def test_a_sensor_of_another_name_counts_where_there_is_no_better_one() -> None:
    assert hottest([("acpitz", 40.0), ("nvme", 35.0)]) == 40.0
