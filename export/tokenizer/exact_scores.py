"""Writes the scores of a Unigram model so that they are read back bit by bit.

The package ``tokenizers`` reads a decimal number as a 64-bit integer divided by a power of ten,
each rounded, and so misses one score in seven by a unit in the last place. Where two ways to
split a text are equally good, that unit decides between them. For one score in a thousand there
is no decimal number that is read as it.
"""

import json
import math
from collections.abc import Iterator

import tokenizers

_LARGEST = 2**64
_POWERS = range(15, 23)  # 10**22 is the last one that a double holds exactly


def with_exact_scores(text: str) -> str:
    """Changes a ``tokenizer.json`` so that reading it gives the scores that it says."""
    fields = json.loads(text)
    model = fields["model"]
    if model.get("type") != "Unigram":
        return text
    read = json.loads(tokenizers.Tokenizer.from_str(text).to_str())["model"]["vocab"]
    items = []
    for (piece, score), (_, found) in zip(model["vocab"], read, strict=True):
        decimal = repr(score) if score == found else next(_decimals(score), repr(score))
        items.append(f"[{json.dumps(piece, ensure_ascii=False)}, {decimal}]")
    fields["model"] = {**model, "vocab": []}
    # Unambiguous: quotation marks within strings have a backslash before them.
    return json.dumps(fields, ensure_ascii=False).replace(
        '"vocab": []', f'"vocab": [{", ".join(items)}]'
    )


def _decimals(score: float) -> Iterator[str]:
    """Decimal numbers that are read as ``score``."""
    for power in _POWERS:
        scaled = abs(score) * 10.0**power
        for significand in (scaled, math.nextafter(scaled, 0), math.nextafter(scaled, math.inf)):
            if significand < _LARGEST and int(significand) / 10.0**power == abs(score):
                yield f"{'-' if score < 0 else ''}{int(significand)}e-{power}"
