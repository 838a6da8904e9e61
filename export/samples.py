"""Sentences for calibration and for the parity check.

They are unlike in length, register, script and punctuation, so that the check sees what
a user's text may bring. Short and long ones are padded together on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import InputSpec

SENTENCES = (
    "Yes.",
    "No way!",
    "What time is it?",
    "thanks a lot :)",
    "Add milk, eggs and 2 lbs of flour to my shopping list.",
    "play some quiet jazz in the kitchen at half past seven",
    "The film is a tedious, overlong mess that wastes a fine cast.",
    "A warm, funny and quietly devastating portrait of two sisters.",
    "Will it rain in Bergen tomorrow afternoon, or can we hike up the mountain?",
    "Book a table for 4 at Luigi's on 12/08, somewhere near the window please.",
    "She sells sea shells by the sea shore.",
    "It is not that I did not like it; I simply never want to see it again.",
    "E = mc^2, and F = ma, but 3.14159 is only roughly pi.",
    "def mean(values): return sum(values) / len(values)",
    "Error 404: https://example.org/index.html?id=17&lang=en was not found",
    "BREAKING NEWS!!! MARKETS FALL 7% AFTER SURPRISE RATE RISE",
    "The mitochondrion is the powerhouse of the cell.",
    "In 1969, Neil Armstrong became the first person to walk on the Moon.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le chat dort sur le canapé pendant que la pluie tombe dehors.",
    "¿Dónde está la biblioteca más cercana?",
    "La vita è bella, ma il caffè è finito.",
    "Быстрая лиса перепрыгнула через собаку.",
    "今日はとても良い天気ですね。",
    "The quick brown fox jumps over the lazy dog while the five boxing wizards jump quickly.",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May?",
    "The committee, which had been appointed in the spring to examine the finances of the "
    "harbour, reported after eleven months that it could not say where the money had gone.",
    "Dear Sir or Madam, I am writing to complain about the heater which I bought from your shop "
    "last week. It smells, it rattles, and on Tuesday it tripped the fuse of the whole house. "
    "I would like my money back. Yours faithfully, J. Smith",
    "rate this book four out of six stars",
    "lol ok brb",
    "I have never been so bored, so annoyed and so thoroughly entertained at the same time; go "
    "and see it, preferably with somebody who laughs loudly.",
    "To make the sauce, melt the butter over a low heat, stir in the flour, and add the milk "
    "little by little, whisking all the while so that no lumps form; season with salt, white "
    "pepper and a grating of nutmeg, and let it simmer gently for another five minutes.",
)

Sample = dict[str, "list[int]"]

_REAL_VOCABULARY = 1000
_RANDOM_LENGTHS = (1, 2, 3, 5, 7, 8, 11, 16, 17, 23, 30, 33)


def check_samples(
    tokenizer_file: Path, inputs: Sequence[InputSpec], vocab_size: int, max_length: int
) -> list[Sample]:
    """Makes the token inputs of the built-in sentences.

    With a toy tokenizer (fewer than 1,000 entries) the sentences would be all unknown
    tokens; fixed random ids take their place.

    Returns:
        One dict a sample: input name -> ids, unpadded.

    Raises:
        BadInputError: the tokenizer is damaged, or makes ids that the model does not have.
    """
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:
        # tokenizers raises bare Exception.
        raise BadInputError(f"tokenizer.json: cannot be read ({error})") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    names = [spec.name for spec in inputs if spec.kind == "tokens"]
    if min(tokenizer.get_vocab_size(), vocab_size) < _REAL_VOCABULARY:
        return [_random_sample(names, length, vocab_size, max_length) for length in _RANDOM_LENGTHS]
    samples = []
    for encoding in tokenizer.encode_batch(list(SENTENCES)):
        if max(encoding.ids) >= vocab_size:
            raise BadInputError(
                f"tokenizer.json: makes token id {max(encoding.ids)}, but the model has only "
                f"{vocab_size} embeddings; the tokenizer belongs to another model"
            )
        fields = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        samples.append({name: fields[name] for name in names})
    return samples


def _random_sample(names: list[str], length: int, vocab_size: int, max_length: int) -> Sample:
    length = min(length, max_length)
    # The first ids are special tokens in most vocabularies; padding is one of them.
    ids = np.random.default_rng(length).integers(min(5, vocab_size - 1), vocab_size, length)
    fields = {"input_ids": ids.tolist(), "token_type_ids": [0] * length}
    return {name: fields[name] for name in names}


def pad_batch(
    samples: Sequence[Mapping[str, Sequence[int]]], inputs: Sequence[InputSpec]
) -> dict[str, np.ndarray[Any, Any]]:
    """Pads samples on the right to the longest of them.

    Returns:
        Input name -> (batch, sequence) of the input's dtype.
    """
    lengths = [len(sample["input_ids"]) for sample in samples]
    batch = {}
    for spec in inputs:
        fill = spec.pad if spec.kind == "tokens" else 0
        array = np.full((len(samples), max(lengths)), fill, spec.dtype)
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            array[row, :length] = sample[spec.name] if spec.kind == "tokens" else 1
        batch[spec.name] = array
    return batch
