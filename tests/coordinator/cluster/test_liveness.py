from coordinator.cluster.liveness import ALONE_SECONDS, GRACE_SECONDS, SILENCE_SECONDS, Liveness
from edge_runtime.contract.ids import DeviceId

PHONE, BOARD = DeviceId("phone"), DeviceId("board")
BOTH = {PHONE, BOARD}


def test_a_device_that_is_silent_for_too_long_is_lost_once() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 1.0)
    liveness.hear(BOARD, 5.0)
    assert list(liveness.lost(BOTH, 1.0 + SILENCE_SECONDS)) == []
    (lost,) = liveness.lost(BOTH, 1.1 + SILENCE_SECONDS)
    assert (lost.device, lost.reason) == (PHONE, "silent for 8 seconds")
    assert list(liveness.lost(BOTH, 4.9 + SILENCE_SECONDS)) == []


def test_a_device_that_never_spoke_is_absent_not_lost() -> None:
    liveness = Liveness()
    liveness.disconnected(PHONE, 0.0)
    assert list(liveness.lost((), 1e6)) == []


def test_a_device_whose_connection_stays_closed_is_lost_once_and_soon() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 0.0)
    liveness.disconnected(PHONE, 1.0)
    assert list(liveness.lost((), 1.0 + GRACE_SECONDS)) == []
    (lost,) = liveness.lost((), 1.1 + GRACE_SECONDS)
    assert (lost.device, lost.reason) == (PHONE, "its connection ended")
    assert list(liveness.lost((), 1e6)) == []


def test_a_device_that_connects_again_in_time_is_not_lost() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 1.0)
    liveness.disconnected(PHONE, 1.0)
    assert list(liveness.lost({PHONE}, 1.5)) == []
    assert list(liveness.lost((), 1.2 + GRACE_SECONDS)) == []


def test_a_lost_device_that_speaks_again_may_be_lost_again() -> None:
    liveness = Liveness()
    for heard in (0.0, 100.0):
        liveness.hear(PHONE, heard)
        liveness.hear(BOARD, heard + 1.0)
        lost = liveness.lost(BOTH, heard + SILENCE_SECONDS + 0.1)
        assert [each.device for each in lost] == [PHONE]


def test_there_is_no_hurry_to_give_up_the_only_device() -> None:
    liveness = Liveness()
    liveness.hear(PHONE, 0.0)
    assert list(liveness.lost(BOTH, ALONE_SECONDS)) == []
    (lost,) = liveness.lost(BOTH, ALONE_SECONDS + 0.1)
    assert lost.reason == "silent for 30 seconds"
