import numpy as np
import pytest

from edge_runtime.cache.keys import KEY_FILE, CacheKeys
from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.contract.cache_format.encoding import decode_int8, encode
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.messages import OpenCache, States
from tests.edge_runtime.cache.samples import DIGEST, HIDDEN_SIZE, keys_of


def open_cache(home, keys=None, *, encrypted):
    request = OpenCache(
        backbone_digest=DIGEST,
        dtype="fp32",
        hidden_size=HIDDEN_SIZE,
        layers={"encoder": (0, 1)},
        keys=keys_of([1]),
        encrypted=encrypted,
    )
    return SampleCache(request, home / "cache", keys or CacheKeys(home))


def fill(cache):
    encoded = np.arange(2 * 3 * 4 * HIDDEN_SIZE, dtype=np.uint8).reshape(2, 3, -1)
    lengths = np.array([3], np.int32)
    states = States(
        number=0, keys=keys_of([1]), lengths=lengths, layers=(0, 1), encoded=encoded, numerics="n"
    )
    cache.append(states)
    cache.close()
    return encoded


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_request_decides_whether_states_lie_encrypted(tmp_path, encrypted):
    cache = open_cache(tmp_path, encrypted=encrypted)
    encoded = fill(cache)
    (segment,) = tmp_path.glob("cache/*/*.records")
    assert (encoded[0].tobytes() in segment.read_bytes()) is not encrypted
    assert (tmp_path / KEY_FILE).exists() is encrypted
    again = open_cache(tmp_path, encrypted=encrypted)
    assert again.held(keys_of([1])).all()
    again.close()


def test_a_plain_cache_that_stays_beside_an_encrypted_one_is_said(tmp_path, caplog):
    fill(open_cache(tmp_path, encrypted=False))
    open_cache(tmp_path, encrypted=True).close()
    assert "still cached unencrypted; `pacplus-device cache --remove abab" in caplog.text


def test_a_wrong_passphrase_is_said_and_the_right_one_still_opens(tmp_path):
    fill(open_cache(tmp_path, CacheKeys(tmp_path, "right"), encrypted=True))
    with pytest.raises(BadInputError, match="another key or passphrase"):
        open_cache(tmp_path, CacheKeys(tmp_path, "wrong"), encrypted=True)
    cache = open_cache(tmp_path, CacheKeys(tmp_path, "right"), encrypted=True)
    assert cache.held(keys_of([1])).all()
    cache.close()


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_packed_states_are_the_padded_ones_without_padding(tmp_path, dtype):
    keys, lengths = keys_of([1, 2, 3]), np.array([3, 1, 4], np.int32)
    request = OpenCache(
        backbone_digest=DIGEST,
        dtype=dtype,
        hidden_size=HIDDEN_SIZE,
        layers={"encoder": (0, 1)},
        keys=keys,
    )
    cache = SampleCache(request, tmp_path, CacheKeys(tmp_path))
    hidden = np.random.default_rng(0).normal(size=(2, 8, HIDDEN_SIZE)).astype(np.float32)
    states = States(
        number=0,
        keys=keys,
        lengths=lengths,
        layers=(0, 1),
        encoded=encode(hidden, dtype),
        numerics="n",
    )
    cache.append(states)

    padded, _ = cache.read(keys[[2, 0]], "encoder")
    packed, found = cache.read_packed(keys[[2, 0]], "encoder")

    assert found.tolist() == [4, 3]
    kept_as = {"fp32": np.float32, "fp16": np.float16, "int8": np.uint8}
    assert packed.dtype == kept_as[dtype]
    if dtype == "int8":
        packed = decode_int8(packed)
    np.testing.assert_array_equal(packed[:, :4], padded[:, 0])
    np.testing.assert_array_equal(packed[:, 4:], padded[:, 1, :3])
    cache.close()
