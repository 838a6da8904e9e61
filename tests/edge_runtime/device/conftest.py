from __future__ import annotations

import pytest

from edge_runtime.system import deferred_imports


@pytest.fixture(autouse=True)
def _no_placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of a device run in the tests' process, which other tests export models in."""
    monkeypatch.setattr(deferred_imports, "defer_compiler_of_pytorch", lambda: None)
