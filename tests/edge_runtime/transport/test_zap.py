import logging

import pytest
import zmq

from edge_runtime.transport import AllowList, KeyPair, SecureContext
from edge_runtime.transport.keys import decode_key
from edge_runtime.transport.zap import DATA_DOMAIN, EARLY_TRIES, MOST_EARLY, DenialLog
from tests.edge_runtime.transport.conftest import BOARD, PHONE


def test_a_device_has_one_key_at_a_time() -> None:
    allow_list = AllowList()
    old, new = KeyPair.generate().public, KeyPair.generate().public
    allow_list.allow(PHONE, old)
    allow_list.allow(PHONE, new)
    assert allow_list.device_of(old) is None
    assert allow_list.device_of(new) == PHONE
    assert allow_list.key_of(PHONE) == new


def test_a_key_belongs_to_one_device() -> None:
    allow_list = AllowList()
    key = KeyPair.generate().public
    allow_list.allow(PHONE, key)
    with pytest.raises(ValueError, match="belongs to phone"):
        allow_list.allow(BOARD, key)
    allow_list.revoke(PHONE)
    allow_list.allow(BOARD, key)
    assert allow_list.device_of(key) == BOARD


def test_a_flood_of_refusals_is_counted_and_not_written(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    denials = DenialLog(burst=2, window_seconds=60, clock=lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            denials.denied("control", "10.0.0.9", "key 1234")
        assert len(caplog.records) == 2
        now = 61.0
        denials.denied("control", "10.0.0.9", "key 1234")
    assert len(caplog.records) == 3
    assert "98 more" in caplog.text


def test_a_peer_that_calls_before_it_is_announced_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    denials = DenialLog(clock=lambda: 0.0)
    for _ in range(5):  # sessions
        denials.denied(DATA_DOMAIN, "10.0.0.9", "key 1234")
        denials.admitted("key 1234")
    assert not caplog.records
    for _ in range(EARLY_TRIES + 1):
        denials.denied(DATA_DOMAIN, "10.0.0.9", "key 1234")
    assert len(caplog.records) == 1


def test_a_stranger_with_ever_new_keys_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    denials = DenialLog(clock=lambda: 0.0)
    for number in range(MOST_EARLY + 1):
        denials.denied(DATA_DOMAIN, "10.0.0.9", f"key {number}")
    assert len(caplog.records) == 1


def answer(
    context: SecureContext, domain: bytes, mechanism: bytes, *credentials: bytes
) -> list[bytes]:
    """Asks as libzmq does."""
    with context._context.socket(zmq.REQ) as asker:
        asker.connect("inproc://zeromq.zap.01")
        asker.send_multipart([b"1.0", b"7", domain, b"10.0.0.9", b"", mechanism, *credentials])
        assert asker.poll(10_000)
        return asker.recv_multipart()


def test_the_zap_handler_admits_known_curve_keys_alone() -> None:
    key = KeyPair.generate().public
    with SecureContext() as context:
        context.zap.serve("control", lambda asked: asked == key)
        for domain, *mechanism in (
            (b"control", b"CURVE", bytes(32)),
            (b"control", b"CURVE", b"short"),
            (b"control", b"CURVE"),
            (b"control", b"NULL"),
            (b"control", b"PLAIN", b"user", b"password"),
            (b"data", b"NULL"),
            (b"data", b"CURVE", decode_key(key)),
            (b"", b"CURVE", decode_key(key)),
        ):
            assert answer(context, domain, *mechanism)[2] == b"400"
        known = answer(context, b"control", b"CURVE", decode_key(key))
        assert known == [b"1.0", b"7", b"200", b"OK", key.encode(), b""]


def test_a_withdrawn_domain_admits_nobody() -> None:
    key = KeyPair.generate().public
    with SecureContext() as context:
        context.zap.serve("control", lambda _: True)
        context.zap.withdraw("control")
        assert answer(context, b"control", b"CURVE", decode_key(key))[2] == b"400"


def test_contexts_of_one_process_decide_apart() -> None:
    key = KeyPair.generate().public
    with SecureContext() as here, SecureContext() as there:
        here.zap.serve("control", lambda _: True)
        there.zap.serve("control", lambda _: False)
        assert answer(here, b"control", b"CURVE", decode_key(key))[2] == b"200"
        assert answer(there, b"control", b"CURVE", decode_key(key))[2] == b"400"


def test_a_failing_decision_is_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str) -> bool:
        raise RuntimeError("broken")

    key = KeyPair.generate().public
    with SecureContext() as context:
        context.zap.serve("control", fail)
        context.zap.serve("data", lambda _: True)
        assert answer(context, b"control", b"CURVE", bytes(32))[2] == b"400"
        assert answer(context, b"data", b"CURVE", decode_key(key))[2] == b"200"
    assert "the connection is refused" in caplog.text


def test_a_domain_is_served_once() -> None:
    with SecureContext() as context:
        context.zap.serve("control", lambda _: True)
        with pytest.raises(ValueError, match="taken"):
            context.zap.serve("control", lambda _: True)
        context.zap.withdraw("control")
        context.zap.serve("control", lambda _: True)
