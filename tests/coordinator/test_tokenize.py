import os
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from coordinator.tokenize import SampleTokenizer
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import Sha256
from edge_runtime.contract.manifest import FORMAT_VERSION, BlockSpec, InputSpec, Manifest, Parity
from edge_runtime.contract.sample import sample_key

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
CLS, SEP = 2, 3
DIGEST = Sha256("ab" * 32)
IDS = InputSpec(name="input_ids", dtype="int64", kind="tokens", pad=1)
TYPES = InputSpec(name="token_type_ids", dtype="int64", kind="tokens")
MASK = InputSpec(name="attention_mask", dtype="int64", kind="mask")


def manifest(*inputs: InputSpec, max_length: int = 8) -> Manifest:
    block = BlockSpec(
        name="embeddings",
        kind="embeddings",
        alike="embeddings",
        inputs=(),
        outputs=(),
        weights=(),
        weight_bytes=0,
        flops_per_token=0,
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        model_id="tiny",
        architecture="BertModel",
        task="classification",
        quantization="none",
        hidden_size=4,
        num_heads=1,
        max_length=max_length,
        inputs=inputs,
        blocks=(block,),
        files=(),
        parity=Parity(worst=0.0, limit=1.0, per_state=(), tokens=1),
        backbone_digest=DIGEST,
    )


def bundle(folder: Path, *, style: str = "bert") -> Path:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if style == "bert":
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    if style == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.enable_padding(length=20)  # as some checkpoints have it; must not matter
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder


def test_samples_are_unpadded_and_keyed_by_every_token_input(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, MASK, TYPES))
    samples = tokenizer.encode(["a b", "c"]).samples
    assert list(samples.inputs) == ["input_ids", "token_type_ids"]
    assert samples.inputs["input_ids"][0].tolist() == [CLS, 4, 5, SEP]
    assert samples.lengths.tolist() == [4, 3]
    assert samples.second_starts.tolist() == [0, 0]
    streams = {"input_ids": [CLS, 6, SEP], "token_type_ids": [0, 0, 0]}
    assert samples.key(1) == sample_key(DIGEST, streams)


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
    assert result.num_truncated == 1
    assert result.samples.lengths.tolist() == [5, 5, 3]


def test_the_longer_text_of_a_pair_is_cut_first(tmp_path: Path) -> None:
    tokenizer = SampleTokenizer(bundle(tmp_path), manifest(IDS, max_length=7))
    result = tokenizer.encode(["a b c d a b c d", "d"], ["d", "a b c d a b c d"])
    assert result.num_truncated == 2
    ids = result.samples.inputs["input_ids"]
    assert ids[0].tolist() == [CLS, 4, 5, 6, SEP, 7, SEP]
    assert ids[1].tolist() == [CLS, 7, SEP, 4, 5, 6, SEP]


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
