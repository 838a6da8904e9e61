"""Measures the processor time of encoding, storing and sending data on this device.

It runs the code of a real run: states are encoded and cut as for two owners, appended to a
temporary cache, and sent over an encrypted connection between two ends in this process.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_runtime.backbone.encoded_states import parts_for_owners
from edge_runtime.cache.keys import CacheKeys
from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.contract.checks import Array
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

SAMPLES = 16
MEASURE_SECONDS = 0.03
"""Processor seconds to measure each cost for."""

PAYLOAD_BYTES = 256 << 10
TEMPORARY_PREFIX = "profile-"
"""Of the folder in the device's home that holds the temporary cache."""

CONNECT_SECONDS = 30.0
WAIT_SECONDS = 0.02
KEY_BYTES = 32

_ME, _PEER = DeviceId("a"), DeviceId("b")


def measure_handling(request: ProfileRequest, home: Path) -> HandlingProfile:
    """Measures the costs of data of the request's shape and cache dtype.

    Args:
        request: gives shape and cache dtype.
        home: holds the temporary cache.
    """
    batch, states = synthetic_micro_batch(request)
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


def synthetic_micro_batch(request: ProfileRequest) -> tuple[MicroBatch, dict[int, Array]]:
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
        destinations=(
            Destination(device=_ME, positions=halves[0]),
            Destination(device=_PEER, positions=halves[1]),
        ),
    )
    return batch, dict.fromkeys(layers, generator.standard_normal(shape).astype(np.float32))


def layers_of(request: ProfileRequest) -> dict[Stream, tuple[int, ...]]:
    """Lists the hidden states to cache, by sequence; one where no adapter reads any."""
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
    """Opens a cache for samples of ``keys`` and removes it afterwards."""
    opening = OpenCache(
        backbone_digest=request.backbone_digest,
        dtype=request.cache_dtype,
        hidden_size=request.hidden_size,
        quota_bytes=None,
        encrypted=request.cache_encrypted,
        layers=layers_of(request),
        keys=keys,
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=home))
        cache = SampleCache(opening, Path(folder), CacheKeys(Path(folder)))  # a key of its own
        yield stack.enter_context(contextlib.closing(cache))


def _storing_seconds(request: ProfileRequest, parts: list[States], home: Path) -> float:
    """Times appending all ``parts``, each time as other samples: known ones are skipped."""
    generator = np.random.default_rng(1)
    keys = generator.integers(0, 256, (64, SAMPLES, KEY_BYTES)).astype(np.uint8)
    with temporary_cache(request, keys.reshape(-1, KEY_BYTES), home) as cache:
        rounds = iter(keys)

        def store() -> None:
            fresh = next(rounds)
            for part in parts:
                cache.append(dataclasses.replace(part, keys=fresh[: len(part.keys)]))
                fresh = np.roll(fresh, len(part.keys), axis=0)

        return processor_seconds_per_run(
            store, at_least_seconds=MEASURE_SECONDS, most_runs=len(keys) - 1
        )


def _transport_seconds(part: States) -> tuple[float, float]:
    """Times one end of a connection: for each message, and for each byte."""
    with _connection() as (near, far):
        seconds = []
        row_bytes = part.encoded.shape[2]
        rows = max(1, PAYLOAD_BYTES // row_bytes)
        for tokens in (1, rows):
            message = dataclasses.replace(
                part,
                keys=part.keys[:1],
                lengths=np.full(1, tokens, np.int32),
                layers=part.layers[:1],
                encoded=np.zeros((1, tokens, row_bytes), np.uint8),
            )

            def deliver(message: States = message) -> None:
                near.to_peer(_PEER, message)
                _wait_delivered(near, far)

            both = processor_seconds_per_run(deliver, at_least_seconds=MEASURE_SECONDS)
            seconds.append(both / 2)
    more_bytes = (rows - 1) * row_bytes
    return seconds[0], max(0.0, seconds[1] - seconds[0]) / max(1, more_bytes)


def _wait_delivered(near: SessionLink, far: SessionLink) -> None:
    """Waits until the far end has a message and has given credit for it."""
    until = time.monotonic() + CONNECT_SECONDS
    while time.monotonic() < until:
        near.wait(0.0)
        for _ in near.from_peers():
            pass
        far.wait(WAIT_SECONDS)
        for peer, _, _, size in far.from_peers():
            far.acknowledge(peer, size)
            return
    raise StoppedError("a message to this device itself did not arrive")


@contextlib.contextmanager
def _connection() -> Iterator[tuple[SessionLink, SessionLink]]:
    """Two devices' links in this process, each other's peers."""
    coordinator, anywhere = KeyPair.generate(), Address(host="127.0.0.1", port=0)
    with contextlib.ExitStack() as stack:
        router = SecureRouter(stack.enter_context(SecureContext()), coordinator, domain="control")
        stack.callback(router.close)
        address = router.bind(anywhere)
        links, peers = [], []
        for device in (_ME, _PEER):
            keys = KeyPair.generate()
            router.allow(device, keys.public)
            link = SessionLink(
                stack.enter_context(SecureContext()),
                keys,
                coordinator=address,
                coordinator_key=coordinator.public,
                listen=anywhere,
            )
            stack.callback(link.close)
            links.append(link)
            endpoint = link.data_address.endpoint
            peers.append(Peer(device=device, public_key=keys.public, address=endpoint))
        near, far = links
        near.set_peers((peers[1],))
        far.set_peers((peers[0],))
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
