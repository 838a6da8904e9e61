import sys
import threading

import pytest

from edge_runtime.training import engine_ahead
from edge_runtime.training.engine_ahead import PLENTY_BYTES, SPARE_CORES, import_engine_ahead


def imports(monkeypatch: pytest.MonkeyPatch, *, bytes_free: int, cores: float) -> bool:
    """Whether the engine has been imported, with so much room."""
    imported = threading.Event()
    monkeypatch.setattr(engine_ahead, "_import", imported.set)
    monkeypatch.setattr(engine_ahead, "available_memory_bytes", lambda: bytes_free)
    monkeypatch.setattr(engine_ahead, "usable_cores", lambda: cores)
    import_engine_ahead()
    for thread in threading.enumerate():
        if thread.name == "engine-ahead":
            thread.join(10)
    return imported.is_set()


def test_pytorch_comes_ahead_where_memory_and_a_core_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert imports(monkeypatch, bytes_free=PLENTY_BYTES, cores=SPARE_CORES)
    assert not imports(monkeypatch, bytes_free=PLENTY_BYTES - 1, cores=SPARE_CORES)
    assert not imports(monkeypatch, bytes_free=PLENTY_BYTES, cores=SPARE_CORES - 0.5)


def test_a_device_without_pytorch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sys.getswitchinterval()
    monkeypatch.setitem(sys.modules, "edge_runtime.parallel_adapters.trainer", None)
    engine_ahead._import()
    assert sys.getswitchinterval() == usual
