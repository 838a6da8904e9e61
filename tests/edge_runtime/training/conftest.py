"""Samples, and roles that are closed after the test."""

import pytest

from edge_runtime.language_head import shortlist
from tests.edge_runtime.training.mesh import Data, Mesh


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def short(monkeypatch):
    """A vocabulary of 900 is large."""
    monkeypatch.setattr(shortlist, "COVERED", 0.3)
    monkeypatch.setattr(shortlist, "OUTSIDE_DRAWS", 60)
    monkeypatch.setattr(shortlist, "LEAST_COUNTED", 1)


@pytest.fixture
def mesh(tmp_path):
    made = []

    def make(*names: str) -> Mesh:
        folder = tmp_path / f"mesh{len(made)}"
        folder.mkdir()
        made.append(Mesh(folder, *names))
        return made[-1]

    yield make
    for each in made:
        each.close()
