"""What a device cannot have measured or computed is refused, and the device is named."""

import dataclasses

import numpy as np
import pytest

from coordinator.session.value_checks import (
    MOST_COUNTS,
    check_link,
    check_loss,
    check_profile,
    check_state,
    check_token_counts,
)
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import DeviceFailedError, UnresumableError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import BlockTiming, DeviceProfile, HandlingProfile, LinkProfile
from edge_runtime.contract.tensors import write_tensors
from tests.coordinator.planner.problems import manifest, profile

A = DeviceId("d0")
NAN, INFINITE = float("nan"), float("inf")


def with_timing(**changes) -> DeviceProfile:
    fields = {"batch_size": 16, "sequence_length": 16, "seconds_per_token": 1e-5, **changes}
    good = profile("d0")
    return dataclasses.replace(good, blocks={**good.blocks, "layer": (BlockTiming(**fields),)})


def test_a_profile_that_a_device_measures_passes():
    check_profile(A, profile("d0"), manifest(), ("backbone", "trainer"))
    check_profile(A, profile("d0", layer=None), manifest(), ("trainer",))
    check_profile(A, profile("d0", train=None), manifest())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (profile("other"), "of another device"),
        (dataclasses.replace(profile("d0"), blocks={"other": profile("d0").blocks["layer"]}), "no"),
        (with_timing(seconds_per_token=1e-300), "a token"),
        (with_timing(seconds_per_token=1e300), "a token"),
        (with_timing(seconds_per_run=1e300), "each micro-batch"),
        (with_timing(sequence_length=1 << 62), "a token"),
        (profile("d0", train=1e300), "a sample"),
        (profile("d0", train=1e-300), "a sample"),
        (profile("d0", memory=1 << 62), "memory"),
        (profile("d0", storage=1 << 62), "memory or storage"),
        (profile("d0", trainer_memory=1 << 62), "memory"),
        (dataclasses.replace(profile("d0"), cores=1e300), "cores"),
        (
            dataclasses.replace(profile("d0"), handling=HandlingProfile(seconds_per_byte=1e300)),
            "handling",
        ),
        (
            profile("d0", link=LinkProfile(up_bits_per_second=INFINITE, down_bits_per_second=1e6)),
            "link",
        ),
    ],
)
def test_a_profile_that_no_device_has_is_refused(wrong, reason):
    with pytest.raises(DeviceFailedError, match=f"^d0: .*{reason}"):
        check_profile(A, wrong, manifest(), ("backbone", "trainer"))


def test_a_device_has_no_role_that_it_does_not_offer():
    with pytest.raises(DeviceFailedError, match="roles"):
        check_profile(A, profile("d0"), manifest(), ("backbone",))


def test_a_link_profile_of_nan_is_none():
    with pytest.raises(ValueError, match="positive"):
        LinkProfile(up_bits_per_second=1e6, down_bits_per_second=NAN)


@pytest.mark.parametrize(("rate", "latency"), [(1e-300, 0.0), (1e300, 0.0), (1e6, 1e300)])
def test_an_impossible_link_is_refused(rate, latency):
    link = m.LinkMeasured(peer=DeviceId("d1"), bits_per_second=rate, latency_seconds=latency)
    with pytest.raises(DeviceFailedError, match=r"^d0: .*d1"):
        check_link(A, link)
    check_link(A, dataclasses.replace(link, bits_per_second=1e6, latency_seconds=0.1))


@pytest.mark.parametrize("loss", [NAN, INFINITE, -INFINITE])
def test_a_loss_that_is_no_number_is_refused(loss):
    with pytest.raises(UnresumableError, match=r"^d0: the loss"):
        check_loss(A, loss)


def state(**changes: np.ndarray) -> bytes:
    tensors = {"gate": np.ones(3, np.float32), "optimizer.step": np.ones(2, np.int64)}
    return write_tensors(tensors | {name.replace("__", "."): v for name, v in changes.items()})


def test_a_state_to_go_on_with_passes():
    check_state(A, state(), b"")
    check_state(A, state(gate=np.zeros(3, np.float32)), state())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (b"", "state that is none"),
        (b"garbage" * 99, "state that is none"),
        (state()[:-1], "state that is none"),
        (write_tensors({"optimizer.step": np.ones(2, np.int64)}), "without weights"),
        (state(gate=np.ones(4, np.float32)), "another adapter"),
        (state(gate=np.ones(3, np.float64)), "another adapter"),
        (state(more=np.ones(3, np.float32)), "another adapter"),
    ],
)
def test_a_state_that_nobody_could_go_on_with_is_refused(wrong, reason):
    with pytest.raises(DeviceFailedError, match=f"^d0: .*{reason}"):
        check_state(A, wrong, state())


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_a_state_that_is_not_finite_is_refused(value):
    with pytest.raises(UnresumableError, match="adapter is not a finite"):
        check_state(A, state(gate=np.full(3, value, np.float32)), b"")


COUNTS = np.array([[0, 2, 3], [5, 2, 4]], np.int64)


@pytest.mark.parametrize(
    "wrong",
    [
        COUNTS[0],
        COUNTS[:, :2],
        np.stack([*COUNTS, COUNTS[1]]),
        COUNTS.astype(np.int32),
        COUNTS - 1,
        COUNTS[::-1],
        COUNTS + MOST_COUNTS,
    ],
    ids=["one row", "narrow", "three rows", "int32", "negative", "more in the tail", "too many"],
)
def test_counts_of_tokens_that_cannot_be_are_refused(wrong):
    check_token_counts(A, COUNTS, 3)
    with pytest.raises(DeviceFailedError, match="d0: sent counts of tokens"):
        check_token_counts(A, wrong, 3)
