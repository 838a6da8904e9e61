import dataclasses

import numpy as np
import pytest

from edge_runtime.backbone.encoded_states import parts_for_owners
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.profiling import training as training_profile
from edge_runtime.profiling.data_handling import layers_of, measure_handling, synthetic_micro_batch
from tests.edge_runtime.profiling.test_training import CLASSES, REQUEST, TEXTS, TRANSFORMATIONS


@pytest.mark.parametrize("request_", [TEXTS, REQUEST], ids=["text", "seq2seq"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.alone
def test_every_cost_of_handling_is_measured_and_nothing_stays(request_, dtype, tmp_path):
    for _ in range(3):  # what else runs here may hide what a byte costs from one measurement
        found = measure_handling(dataclasses.replace(request_, cache_dtype=dtype), tmp_path)
        if found.seconds_per_byte > 0:
            break
    assert found.seconds_per_message > 0
    assert found.seconds_per_byte > 0
    assert found.seconds_per_encoded_byte > 0
    assert found.seconds_per_stored_byte > 0
    assert not list(tmp_path.iterdir())


def test_a_synthetic_micro_batch_encodes_to_what_a_cache_holds_of_mean_samples():
    batch, states = synthetic_micro_batch(TEXTS)
    parts = [part for _, part in parts_for_owners(batch, "encoder", states, "fp16")]
    samples = sum(len(part.keys) for part in parts)
    rows = samples * TEXTS.tokens["encoder"] * len(CLASSES.layers)
    assert sum(part.encoded.nbytes for part in parts) == rows * row_bytes("fp16", TEXTS.hidden_size)
    assert len(np.unique(np.concatenate([part.keys for part in parts]), axis=0)) == samples


def test_layers_belong_to_the_sequence_that_they_are_states_of():
    assert layers_of(REQUEST) == {"encoder": (0, 1), "decoder": (2, 3)}
    assert layers_of(TEXTS) == {"encoder": CLASSES.layers}
    alone = dataclasses.replace(TRANSFORMATIONS, task="causal-lm", encoder_layers=0)
    decoder = dataclasses.replace(
        REQUEST, adapter=alone, tokens={"decoder": 4}, max_tokens={"decoder": 8}
    )
    assert layers_of(decoder) == {"decoder": (0, 1, 2, 3)}


def test_samples_of_two_sequences_take_as_long_to_read_as_both(monkeypatch, tmp_path):
    monkeypatch.setattr(training_profile, "seconds_per_run", lambda run, cores: run() and 1.6)
    # 16 samples of two layers of the encoder's 6 tokens were read in 1.6 seconds.
    for padded in (True, False):
        found = training_profile.reading_seconds(REQUEST, tmp_path, padded=padded)
        assert found == pytest.approx(0.1 * (2 * 6 + 2 * 4) / (2 * 6))
