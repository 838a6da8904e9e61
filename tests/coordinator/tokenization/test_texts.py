import os
from pathlib import Path

import pytest
import tokenizers

from coordinator.tokenization import SampleTokenizer
from coordinator.tokenization.loading import frame_of
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import InputSpec
from edge_runtime.contract.sample import Ragged, sample_keys
from tests.coordinator.bundles import CLS, DIGEST, IDS, MASK, SEP, TYPES, bundle, manifest


def test_samples_are_unpadded_and_keyed_by_every_token_input(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, MASK, TYPES))
    samples = tokenizer.encode(["a b", "c"]).samples
    assert list(samples.inputs) == ["input_ids", "token_type_ids"]
    assert samples.inputs["input_ids"][0].tolist() == [CLS, 4, 5, SEP]
    assert samples.lengths.tolist() == [4, 3]
    assert samples.second_starts.tolist() == [0, 0]
    second = {"input_ids": [[CLS, 6, SEP]], "token_type_ids": [[0, 0, 0]]}
    inputs = {name: Ragged.from_rows(rows) for name, rows in second.items()}
    assert samples.keys[1:].tolist() == sample_keys(DIGEST, inputs).tolist()


def test_a_pair_has_types_and_a_second_start(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, TYPES))
    samples = tokenizer.encode(["a b"], ["c"]).samples
    assert samples.inputs["input_ids"][0].tolist() == [CLS, 4, 5, SEP, 6, SEP]
    assert samples.inputs["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1]
    assert samples.second_starts.tolist() == [4]


def test_a_second_start_needs_no_token_types(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path, style="roberta"), manifest(IDS))
    samples = tokenizer.encode(["a b"], ["c"]).samples
    assert samples.inputs["input_ids"][0].tolist() == [CLS, 4, 5, SEP, SEP, 6, SEP]
    assert samples.second_starts.tolist() == [5]


def test_an_empty_second_text_starts_at_the_last_separator(tmp_path: Path) -> None:
    samples = SampleTokenizer(bundle(tmp_path), manifest(IDS)).encode(["a"], [""]).samples
    assert samples.second_starts.tolist() == [samples.lengths[0] - 1]


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, max_length=5))
    result = tokenizer.encode(["a b c", "a b c d a b c d", "a"])
    assert len(result.truncated) == 1
    assert result.samples.lengths.tolist() == [5, 5, 3]


def test_the_longer_text_of_a_pair_is_cut_first(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, max_length=7))
    result = tokenizer.encode(["a b c d a b c d", "d"], ["d", "a b c d a b c d"])
    assert len(result.truncated) == 2
    ids = result.samples.inputs["input_ids"]
    assert ids[0].tolist() == [CLS, 4, 5, 6, SEP, 7, SEP]
    assert ids[1].tolist() == [CLS, 7, SEP, 4, 5, 6, SEP]


def test_texts_are_cut_at_the_side_that_the_tokenizer_names(tmp_path: Path) -> None:
    config = bundle(tmp_path) / "tokenizer" / "tokenizer_config.json"
    config.write_text('{"truncation_side": "left"}')
    ids = SampleTokenizer(tmp_path, manifest(IDS, max_length=4)).encode(["a b c"]).samples.inputs
    assert ids["input_ids"][0].tolist() == [CLS, 5, 6, SEP]


def test_a_pair_that_has_no_room_beside_its_special_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, max_length=2))
    assert tokenizer.encode(["a"]).samples.lengths.tolist() == [2]
    with pytest.raises(BadInputError, match=r"puts 3 special tokens.*takes 2.*--max-length"):
        tokenizer.encode(["a"], ["b"])


def test_a_pair_for_a_model_with_one_token_type_is_refused(tmp_path: Path) -> None:
    config = bundle(tmp_path) / "tokenizer" / "tokenizer_config.json"
    config.write_text('{"num_token_types": 1}')
    tokenizer = SampleTokenizer(tmp_path, manifest(IDS, TYPES))
    assert len(tokenizer.encode(["a"]).samples) == 1
    with pytest.raises(BadInputError, match="type_vocab_size"):
        tokenizer.encode(["a"], ["b"])


def test_a_long_pair_is_cut_without_making_all_that_is_cut_off(tmp_path: Path) -> None:
    """The package joins each piece that it cuts off of one text with each of the other."""
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, max_length=5))
    result = tokenizer.encode(["a " * 100_000], ["b " * 100_000])
    assert result.samples.inputs["input_ids"][0].tolist() == [CLS, 4, SEP, 5, SEP]


def test_the_frame_is_found_of_a_tokenizer_that_knows_no_letter(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"[CLS]": 0, "[SEP]": 1}, []))
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    assert tokenizer.encode("a").ids == [0, 1]
    assert frame_of(tokenizer) == ([0], [1])


def test_a_text_without_tokens_becomes_one_filler_token(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path, style="none"), manifest(IDS))
    samples = tokenizer.encode(["", " ", "a"]).samples
    assert [samples.inputs["input_ids"][i].tolist() for i in range(3)] == [[1], [1], [4]]
    assert tokenizer.encode([""], [""]).samples.second_starts.tolist() == [0]


def test_more_texts_than_a_chunk_keep_their_order(tmp_path: Path) -> None:
    texts = ["a" if i % 3 else "b c" for i in range(2500)]
    samples = SampleTokenizer(bundle(tmp_path), manifest(IDS)).encode(texts).samples
    assert samples.lengths.tolist() == [3 if i % 3 else 4 for i in range(2500)]


def test_nothing_is_tokenised_to_nothing(tmp_path: Path) -> None:
    assert len(SampleTokenizer(bundle(tmp_path), manifest(IDS)).encode([]).samples) == 0


def test_tokenising_uses_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    SampleTokenizer(bundle(tmp_path), manifest(IDS))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"tokenizer\.json: no such file; export"):
        SampleTokenizer(tmp_path, manifest(IDS))
    (bundle(tmp_path) / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInputError, match="not a tokenizer"):
        SampleTokenizer(tmp_path, manifest(IDS))


def test_an_input_that_no_text_gives_is_refused(tmp_path: Path) -> None:
    pixels = InputSpec(name="pixel_values", dtype="float32", kind="tokens")
    with pytest.raises(BadInputError, match="pixel_values"):
        SampleTokenizer(bundle(tmp_path), manifest(IDS, pixels))


def test_samples_know_the_sequence_of_their_inputs(tmp_path: Path) -> None:
    ids = InputSpec(name="input_ids", dtype="int64", kind="tokens", stream="decoder")
    samples = SampleTokenizer(bundle(tmp_path), manifest(ids, MASK)).encode(["a b"]).samples
    assert dict(samples.streams) == {"input_ids": "decoder"}
    assert samples.lengths_of["decoder"].tolist() == [4]
