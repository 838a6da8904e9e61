"""Measures what data that come, go and stay cost this device's processor.

With the code that does it in a run: states are encoded and cut as for two owners, appended
to a cache of their own, and sent over an encrypted connection whose both ends are here.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edge_runtime.backbone.role import parts_for_owners
from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import (
    Destination,
    MicroBatch,
    OpenCache,
    Peer,
    ProfileRequest,
    States,
)
from edge_runtime.contract.profile import HandlingProfile
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.transport import Address, KeyPair, SecureContext, SecureRouter

from .timing import processor_seconds_per_run

Array: TypeAlias = np.ndarray[Any, Any]

SAMPLES = 16
MEASURE_SECONDS = 0.03
"""Of the processor's time, for each of the costs."""

PAYLOAD_BYTES = 256 << 10
CONNECT_SECONDS = 30.0
WAIT_SECONDS = 0.02
KEY_BYTES = 32

_ME, _PEER = DeviceId("a"), DeviceId("b")


def measure_handling(request: ProfileRequest, home: Path) -> HandlingProfile:
    """The costs of data of the request's shape and cache dtype.

    Args:
        request: says what is cached.
        home: a folder there holds the cache for as long as it takes.
    """
    batch, states = made_up_micro_batch(request)
    stream = next(iter(batch.lengths))
    encoded = [part for _, part in parts_for_owners(batch, stream, states, request.cache_dtype)]
    size = sum(part.encoded.nbytes for part in encoded)

    def encode() -> None:
        for _ in parts_for_owners(batch, stream, states, request.cache_dtype):
            pass

    encoding = processor_seconds_per_run(encode, at_least_seconds=MEASURE_SECONDS)
    per_message, per_byte = _transport_seconds(encoded[0])
    return HandlingProfile(
        seconds_per_message=per_message,
        seconds_per_byte=per_byte,
        seconds_per_encoded_byte=encoding / size,
        seconds_per_stored_byte=_storing_seconds(request, encoded, home) / size,
    )


def made_up_micro_batch(request: ProfileRequest) -> tuple[MicroBatch, dict[int, Array]]:
    """Random states of mean samples, (tokens, d) by layer, half of them for another owner."""
    stream, layers = next(iter(layers_of(request).items()))
    generator = np.random.default_rng(0)
    tokens = request.tokens[stream]
    shape = (SAMPLES * tokens, request.hidden_size)
    halves = np.arange(SAMPLES, dtype=np.int32).reshape(2, -1)
    batch = MicroBatch(
        number=0,
        route=(_ME,),
        keys=generator.integers(0, 256, (SAMPLES, KEY_BYTES)).astype(np.uint8),
        lengths={stream: np.full(SAMPLES, tokens, np.int32)},
        destinations=tuple(
            Destination(device=device, positions=positions)
            for device, positions in zip((_ME, _PEER), halves, strict=True)
        ),
    )
    made = generator.standard_normal(shape).astype(np.float32)
    return batch, dict.fromkeys(layers, made)


def layers_of(request: ProfileRequest) -> dict[Stream, tuple[int, ...]]:
    """Hidden states that are cached, by their sequence; one where no adapter reads any."""
    config = request.adapter
    if config is None:
        return {next(iter(request.tokens)): (0,)}
    if config.encoder_layers:
        parts = config.layers[: config.encoder_layers], config.layers[config.encoder_layers :]
        return dict(zip(("encoder", "decoder"), parts, strict=True))
    stream: Stream = "decoder" if "decoder" in request.tokens else "encoder"
    return {stream: config.layers}


@contextlib.contextmanager
def temporary_cache(request: ProfileRequest, keys: Array, home: Path) -> Iterator[SampleCache]:
    """A cache for samples of ``keys`` that is gone afterwards."""
    opening = OpenCache(
        backbone_digest=request.backbone_digest,
        dtype=request.cache_dtype,
        hidden_size=request.hidden_size,
        quota_bytes=None,
        layers=layers_of(request),
        keys=keys,
    )
    with tempfile.TemporaryDirectory(prefix="profile-", dir=home) as folder:
        cache = SampleCache(opening, Path(folder))
        try:
            yield cache
        finally:
            cache.close()


def _storing_seconds(request: ProfileRequest, parts: list[States], home: Path) -> float:
    """Appending all ``parts``; each time as other samples, since known ones are skipped."""
    generator = np.random.default_rng(1)
    keys = generator.integers(0, 256, (64, SAMPLES, KEY_BYTES)).astype(np.uint8)
    with temporary_cache(request, keys.reshape(-1, KEY_BYTES), home) as cache:
        rounds = iter(keys)

        def store() -> None:
            fresh = next(rounds)
            for part in parts:
                cache.append(_renamed(part, fresh[: len(part.keys)]))
                fresh = np.roll(fresh, len(part.keys), axis=0)

        return processor_seconds_per_run(
            store, at_least_seconds=MEASURE_SECONDS, most_runs=len(keys) - 1
        )


def _renamed(part: States, keys: Array) -> States:
    return States(
        number=part.number,
        keys=keys,
        lengths=part.lengths,
        layers=part.layers,
        encoded=part.encoded,
        numerics=part.numerics,
    )


def _transport_seconds(part: States) -> tuple[float, float]:
    """Of one end of a connection: for each message, and for each byte."""
    with _connection() as (near, far):
        seconds = []
        rows = max(1, PAYLOAD_BYTES // part.encoded.shape[2])
        for tokens in (1, rows):
            message = States(
                number=0,
                keys=part.keys[:1],
                lengths=np.full(1, tokens, np.int32),
                layers=part.layers[:1],
                encoded=np.zeros((1, tokens, part.encoded.shape[2]), np.uint8),
                numerics=part.numerics,
            )

            def pass_on(message: States = message) -> None:
                near.to_peer(_PEER, message)
                _deliver(near, far)

            both = processor_seconds_per_run(pass_on, at_least_seconds=MEASURE_SECONDS)
            seconds.append(both / 2)
    more_bytes = (rows - 1) * part.encoded.shape[2]
    return seconds[0], max(0.0, seconds[1] - seconds[0]) / max(1, more_bytes)


def _deliver(near: SessionLink, far: SessionLink) -> None:
    """Waits until the far end has a message and has given credit for it."""
    until = time.monotonic() + CONNECT_SECONDS
    while time.monotonic() < until:
        near.wait(0.0)
        for _ in near.from_peers():
            pass
        far.wait(WAIT_SECONDS)
        for peer, _, size in far.from_peers():
            far.acknowledge(peer, size)
            return
    raise StoppedError("a message to this device itself did not arrive")


@contextlib.contextmanager
def _connection() -> Iterator[tuple[SessionLink, SessionLink]]:
    """Two devices' links in this process, each other's peers."""
    keys = {device: KeyPair.generate() for device in (_ME, _PEER)}
    anywhere = Address(host="127.0.0.1", port=0)
    with contextlib.ExitStack() as stack:
        coordinator = KeyPair.generate()
        router = SecureRouter(stack.enter_context(SecureContext()), coordinator, domain="control")
        stack.callback(router.close)
        address = router.bind(anywhere)
        links = {}
        for device, pair in keys.items():
            router.allow(device, pair.public)
            links[device] = SessionLink(
                stack.enter_context(SecureContext()),
                pair,
                coordinator=address,
                coordinator_key=coordinator.public,
                listen=anywhere,
            )
            stack.callback(links[device].close)
        peers = {
            device: Peer(
                device=device,
                public_key=keys[device].public,
                address=link.data_address.endpoint,
            )
            for device, link in links.items()
        }
        near, far = links[_ME], links[_PEER]
        near.set_peers((peers[_PEER],))
        far.set_peers((peers[_ME],))
        _connect(near, far)
        yield near, far


def _connect(*links: SessionLink) -> None:
    until = time.monotonic() + CONNECT_SECONDS
    while any(link.unreached_peers() for link in links):
        if time.monotonic() > until:
            raise StoppedError("this device does not reach itself over loopback")
        for link in links:
            link.wait(WAIT_SECONDS)
            for _ in link.from_peers():
                pass
