"""Compares what two tokenizers make of texts and pairs of texts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import tokenizers

from edge_runtime.contract.errors import BadInputError
from export.wording import first_line

from .odd_texts import around_tokens, odd_texts

Row: TypeAlias = "tuple[list[int], list[int]]"
"""Token ids and types of a text."""

_EVERY = 5  # for pairs; made of the same tokens, they differ by their frame
_MOST_TOKENS = 100  # special ones that are tried; some tokenizers have thousands


Encode: TypeAlias = "Callable[[Sequence[str], Sequence[str] | None, bool], list[Row]]"
"""Takes texts, second texts of pairs or None, and whether to add special tokens."""


def by_tokenizers(tokenizer: Any) -> Encode:
    """Encodes with the package ``tokenizers``, as the coordinator does."""

    def encode(texts: Sequence[str], pairs: Sequence[str] | None, special: bool) -> list[Row]:
        items = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        try:
            encodings = tokenizer.encode_batch_fast(items, add_special_tokens=special)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # no Exception, and nobody exports it
                raise
            raise ValueError(str(error)) from None
        return [(encoding.ids, encoding.type_ids) for encoding in encodings]

    return encode


def by_transformers(tokenizer: Any) -> Encode:
    """Encodes with a tokenizer of transformers, as people call it."""

    def encode(texts: Sequence[str], pairs: Sequence[str] | None, special: bool) -> list[Row]:
        encoded = tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            add_special_tokens=special,
            return_token_type_ids=True,
        )
        return list(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True))

    return encode


def first_difference(one: Encode, other: Encode, texts: Sequence[str]) -> str | None:
    """Finds a text, or pair of texts, of which the two make other tokens; None if none."""
    few = texts[::_EVERY]
    for tried, pairs, special in ((texts, None, True), (few, None, False), (few, few[::-1], True)):
        rows = zip(one(tried, pairs, special), other(tried, pairs, special), strict=True)
        for i, (row, another) in enumerate(rows):
            if row != another:
                return repr(tried[i]) + ("" if pairs is None else f" and {pairs[i]!r}")
    return None


def trial_texts(tokens: Iterable[str] = (), without: Iterable[str] = ()) -> list[str]:
    """Lists texts to compare with: odd ones, and some with ``tokens`` in them.

    Args:
        tokens: special and added ones.
        without: texts that have one of these in them are left out.
    """
    bare = [token.strip().lower() for token in without]
    texts = [*odd_texts(), *around_tokens(list(tokens)[:_MOST_TOKENS])]
    return [text for text in texts if not any(token in text.lower() for token in bare)]


def check_same(
    backend: tokenizers.Tokenizer, oracle: Any, left_out: Iterable[str], where: str
) -> None:
    """Refuses a tokenizer that does other than that of transformers which it was made of.

    Args:
        backend: what is written.
        oracle: of transformers.
        left_out: tokens of the oracle that are not written on purpose.
        where: the checkpoint.

    Raises:
        BadInputError: names a text of which they make other tokens, or one of them fails.
    """
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    texts = trial_texts(added, left_out)
    try:
        text = first_difference(by_tokenizers(backend), by_transformers(oracle), texts)
    except Exception as error:  # the packages raise no other
        raise BadInputError(f"{where}: its tokenizer fails ({first_line(error)})") from None
    if text is not None:
        raise BadInputError(
            f"{where}: its tokenizer does more than a tokenizer.json can say: of {text} "
            f"transformers' {type(oracle).__name__} makes other tokens; it cannot be exported"
        )
