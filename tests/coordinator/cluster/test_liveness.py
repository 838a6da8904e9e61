import pytest

from coordinator.cluster.liveness import GATHER_SECONDS, SILENCE_SECONDS, Liveness
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId

PHONE, BOARD = DeviceId("phone"), DeviceId("board")


def test_a_device_that_is_silent_for_too_long_is_lost_once() -> None:
    liveness = Liveness([PHONE, BOARD], now=0.0)
    liveness.hear(PHONE, 1.0)
    liveness.hear(BOARD, 5.0)
    assert list(liveness.lost(1.0 + SILENCE_SECONDS)) == []
    (lost,) = liveness.lost(1.1 + SILENCE_SECONDS)
    assert (lost.device, lost.reason) == (PHONE, "silent for 30 seconds")
    assert list(liveness.lost(4.9 + SILENCE_SECONDS)) == []


def test_a_device_that_never_spoke_is_absent_not_lost() -> None:
    liveness = Liveness([PHONE, BOARD], now=100.0)
    liveness.check_joined({PHONE}, 100.0 + GATHER_SECONDS)
    assert list(liveness.lost(1e6)) == []
    with pytest.raises(InfeasibleError, match=r"^board did not join within 120 seconds; run "):
        liveness.check_joined({PHONE}, 100.1 + GATHER_SECONDS)
    liveness.check_joined({PHONE, BOARD}, 1e6)
