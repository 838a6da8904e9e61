from coordinator.cluster.liveness import SILENCE_SECONDS, Liveness
from edge_runtime.contract.ids import DeviceId

PHONE, BOARD = DeviceId("phone"), DeviceId("board")


def test_a_device_that_is_silent_for_too_long_is_lost_once() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 1.0)
    liveness.hear(BOARD, 5.0)
    assert list(liveness.lost(1.0 + SILENCE_SECONDS)) == []
    (lost,) = liveness.lost(1.1 + SILENCE_SECONDS)
    assert (lost.device, lost.reason) == (PHONE, "silent for 8 seconds")
    assert list(liveness.lost(4.9 + SILENCE_SECONDS)) == []


def test_a_lost_device_that_speaks_again_may_be_lost_again() -> None:
    liveness = Liveness()
    for heard in (0.0, 100.0):
        liveness.hear(PHONE, heard)
        assert [lost.device for lost in liveness.lost(heard + SILENCE_SECONDS + 0.1)] == [PHONE]


def test_a_device_that_never_spoke_is_not_lost() -> None:
    """Who is absent is the session's affair, which waits for it a while."""
    assert list(Liveness().lost(1e6)) == []
