from coordinator.cluster.forgetting import Forgetting
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.messages import Forget, Forgotten

PHONE, BOARD = DeviceId("phone"), DeviceId("board")
ONE, OTHER = (Forget(backbone_digest=Sha256(2 * digit * 16)) for digit in ("ab", "cd"))
DONE = Forgotten(bytes=7)


def test_a_device_is_told_when_it_joins_and_done_when_it_has_answered_all():
    forgetting = Forgetting({PHONE: [ONE, OTHER], BOARD: [ONE]})
    assert forgetting.joined(PHONE) == (ONE, OTHER)
    assert forgetting.answered(PHONE, DONE) == ONE
    assert forgetting.unanswered == {PHONE, BOARD}
    assert forgetting.answered(PHONE, DONE) == OTHER
    assert forgetting.unanswered == {BOARD}
    assert forgetting.freed_bytes == {PHONE: 14}


def test_a_device_that_joins_again_is_told_again_what_it_has_not_answered():
    forgetting = Forgetting({PHONE: [ONE, OTHER]})
    forgetting.joined(PHONE)
    forgetting.answered(PHONE, DONE)
    assert forgetting.joined(PHONE) == (OTHER,)


def test_what_was_refused_stays_to_be_done_but_is_not_waited_for():
    forgetting = Forgetting({PHONE: [ONE]})
    forgetting.joined(PHONE)
    assert forgetting.answered(PHONE, Forgotten(bytes=3, refused="in use")) is None
    assert forgetting.unanswered == frozenset()
    assert forgetting.refused == {PHONE: "in use"}
    assert forgetting.joined(PHONE) == (ONE,)


def test_an_answer_that_nobody_asked_for_changes_nothing():
    forgetting = Forgetting({PHONE: [ONE]})
    assert forgetting.answered(PHONE, DONE) is None
    assert forgetting.answered(BOARD, DONE) is None
    assert forgetting.unanswered == {PHONE}
    assert forgetting.freed_bytes == {}
    assert forgetting.joined(BOARD) == ()
