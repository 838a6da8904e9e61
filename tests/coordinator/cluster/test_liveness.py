"""When a device counts as lost: silent, or without a connection."""

from coordinator.cluster.liveness import RETURN_SECONDS, SILENCE_SECONDS, Liveness
from edge_runtime.contract.ids import DeviceId

PHONE, BOARD = DeviceId("phone"), DeviceId("board")
BOTH = {PHONE, BOARD}


def test_a_device_that_is_silent_for_too_long_is_lost_once() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 1.0)
    liveness.hear(BOARD, 5.0)
    assert list(liveness.lost(1.0 + SILENCE_SECONDS, BOTH)) == []
    (lost,) = liveness.lost(1.1 + SILENCE_SECONDS, BOTH)
    assert (lost.device, lost.reason) == (PHONE, "silent for 8 seconds")
    assert list(liveness.lost(4.9 + SILENCE_SECONDS, BOTH)) == []


def test_a_device_that_never_spoke_is_not_lost() -> None:
    assert list(Liveness().lost(1e6, BOTH)) == []


def test_a_device_whose_connection_ended_is_lost_soon_and_once() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 1.0)
    liveness.disconnected(PHONE, 1.0)
    assert list(liveness.lost(1.0 + RETURN_SECONDS, {BOARD})) == []
    (lost,) = liveness.lost(1.1 + RETURN_SECONDS, {BOARD})
    assert (lost.device, lost.reason) == (PHONE, "its connection ended")
    assert list(liveness.lost(1e6, {BOARD})) == []


def test_a_device_that_connects_again_in_time_is_not_lost() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 1.0)
    liveness.disconnected(PHONE, 1.0)
    assert list(liveness.lost(2.0, BOTH)) == []
    assert list(liveness.lost(1.1 + RETURN_SECONDS, {BOARD})) == []
