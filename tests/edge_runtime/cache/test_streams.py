import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cache.inspect import describe
from edge_runtime.cache.streams import count_samples, record_keys
from tests.edge_runtime.cache.samples import ALL_LAYERS, HIDDEN_SIZE, key_of, open_cache

KEYS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5, unique=True)


def array(keys):
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)


@given(KEYS)
def test_an_encoders_records_have_the_samples_keys_and_a_decoders_have_others(keys):
    samples = array(keys)
    assert (record_keys(samples, "encoder") == samples).all()
    decoder = record_keys(samples, "decoder")
    assert not (decoder == samples).all(axis=1).any()
    assert (record_keys(decoder, "decoder") == samples).all()


@given(KEYS)
def test_a_sample_counts_once_however_many_of_its_sequences_are_there(keys):
    decoder = [key.tobytes() for key in record_keys(array(keys), "decoder")]
    assert count_samples(keys) == count_samples(decoder) == len(keys)
    assert count_samples([*keys, *decoder]) == len(keys)
    assert count_samples([*keys, decoder[0]]) == len(keys)


def test_two_sequences_of_unequal_lengths_are_one_sample_of_the_cache(tmp_path):
    keys = np.stack([key_of(1), key_of(2)])
    with open_cache(tmp_path) as cache:
        for stream, lengths in {"encoder": [2, 3], "decoder": [4, 1]}.items():
            rows = np.zeros((len(ALL_LAYERS), 5, 4 * HIDDEN_SIZE), np.uint8)
            assert cache.append(
                record_keys(keys, stream), np.array(lengths), ALL_LAYERS, rows
            ).all()
        assert cache.samples == 2
        for stream, lengths in {"encoder": [2, 3], "decoder": [4, 1]}.items():
            assert cache.read_batch(record_keys(keys, stream), [0])[1].tolist() == lengths
    assert describe(tmp_path)[0].samples == 2
