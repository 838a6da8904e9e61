"""Token ids equal those of transformers' ``AutoTokenizer``, for every kind of tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import transformers

from coordinator.tokenization import SampleTokenizer
from coordinator.tokenization.loading import encodings, frame_of, load_tokenizer
from export.checkpoint.families import FAMILIES
from export.checkpoint.quiet import quiet
from export.tokenizer.odd_texts import around_tokens, odd_texts
from export.tokenizer.save import save_tokenizer
from tests.coordinator.bundles import IDS, MASK, TYPES, manifest
from tests.tiny_tokenizers import KINDS, tiny_tokenizer_dir

TEXTS = odd_texts()
SECONDS = [*TEXTS[7:], *TEXTS[:7]]
LANGUAGE_MODELS = [
    kind for kind, (family, _) in KINDS.items() if "causal-lm" in FAMILIES[family].tasks
]

each_kind = pytest.mark.parametrize("kind", KINDS)


class Both:
    """A bundle's tokenizer, and that of transformers which it was made of."""

    def __init__(self, folder: Path, kind: str) -> None:
        checkpoint = tiny_tokenizer_dir(folder / "model", kind)
        save_tokenizer(checkpoint, folder / "tokenizer")
        self.folder = folder
        self.tokenizer = load_tokenizer(folder)
        with quiet():
            self.oracle = transformers.AutoTokenizer.from_pretrained(folder / "model")

    def made(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        if special:
            return [self.tokenizer.encode(text).ids for text in texts]
        return [encoding.ids for encoding in encodings(self.tokenizer, texts)]

    def wanted(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        with quiet():
            return self.oracle(texts, add_special_tokens=special)["input_ids"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Both]:
    return functools.cache(lambda kind: Both(tmp_path_factory.mktemp("kind"), kind))


@each_kind
def test_texts_and_documents(both: Callable[[str], Both], kind: str) -> None:
    pair = both(kind)
    before, after = frame_of(pair.tokenizer)
    wanted = pair.wanted(TEXTS)
    assert pair.made(TEXTS) == wanted
    assert [[*before, *ids, *after] for ids in pair.made(TEXTS, special=False)] == wanted


@each_kind
def test_prompts_and_chats_which_get_no_special_tokens(
    both: Callable[[str], Both], kind: str
) -> None:
    pair = both(kind)
    texts = TEXTS[::3]
    assert pair.made(texts, special=False) == pair.wanted(texts, special=False)


@each_kind
def test_texts_with_the_text_of_special_tokens_in_them(
    both: Callable[[str], Both], kind: str
) -> None:
    pair = both(kind)
    texts = list(around_tokens(list(pair.oracle.get_added_vocab())[-20:]))
    assert pair.made(texts) == pair.wanted(texts)


@each_kind
@pytest.mark.parametrize("paired", [False, True], ids=["texts", "pairs"])
def test_samples_are_cut_as_transformers_cuts(
    both: Callable[[str], Both], kind: str, paired: bool
) -> None:
    pair = both(kind)
    texts = (TEXTS[::2], SECONDS[::2])[: 1 + paired]
    tokenizer = SampleTokenizer(pair.folder, manifest(IDS, MASK, TYPES, max_length=12))
    found = tokenizer.encode(*texts)
    options = {"truncation": True, "max_length": 12, "return_token_type_ids": True}
    with quiet():
        rows = pair.oracle(*texts, **options)
    for name, padding in (("input_ids", IDS.pad), ("token_type_ids", TYPES.pad)):
        made = [row.tolist() for row in found.samples.inputs[name]]
        assert made == [row or [padding] for row in rows[name]]
    assert 0 < len(found.truncated) < len(texts[0])


@pytest.mark.parametrize(
    "kind", ["bert uncased", "roberta", "t5", "deberta-v2", "llama 3", "llama 2, legacy", "gemma"]
)
def test_a_very_long_text(both: Callable[[str], Both], kind: str) -> None:
    pair = both(kind)
    texts = ["Long 文 👍🏽, " * 5000, "word" * 13_000]
    assert pair.made(texts) == pair.wanted(texts)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_completion_that_begins_a_word_is_what_it_is_in_the_whole_text(
    both: Callable[[str], Both], kind: str
) -> None:
    pair = both(kind)
    prompt, completion = "The cat sat", " on the mat,  3.5 times."
    continuing = load_tokenizer(pair.folder, continuing=True)
    [begun, whole] = pair.wanted([prompt, prompt + completion], special=False)
    assert [*begun, *continuing.encode(completion, add_special_tokens=False).ids] == whole


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_no_blank_is_put_before_a_completion(both: Callable[[str], Both], kind: str) -> None:
    pair = both(kind)
    [begun] = pair.made(["a cat"], special=False)
    rest = load_tokenizer(pair.folder, continuing=True).encode("s", add_special_tokens=False)
    assert pair.oracle.decode([*begun, *rest.ids]).strip() == "a cats"
