"""The two kinds of devices, one as good as the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from export.partition.stages import Bundle, open_bundle
from tests.conformance.driver import Driver
from tests.conformance.fake_device import FakeDevices
from tests.conformance.real_device import RealDevices
from tests.conformance.world import World

BUNDLE = Path(__file__).parents[1] / "fixtures" / "earlier_formats" / "bundle"


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """A tiny BERT of four blocks."""
    return open_bundle(BUNDLE)


@pytest.fixture(params=["real", "fake"])
def world(request: pytest.FixtureRequest, tmp_path: Path, bundle: Bundle) -> Iterator[World]:
    driver: Driver = (
        RealDevices(bundle, tmp_path) if request.param == "real" else FakeDevices(bundle.manifest)
    )
    yield World(bundle, driver)
    driver.stop()
