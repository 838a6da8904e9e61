"""Finds the tokens that end a generated text: those that end one in training."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from edge_runtime.contract.errors import BadInputError

from .sandbox import render_turn_end
from .source import read_template

_SHOWN = 40


def stop_tokens(
    folder: Path, configured: Iterable[int], vocab_size: int, where: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Gathers the ids at which generation ends, without repetition.

    Args:
        folder: of the tokenizer, with its chat template.
        configured: end tokens of the generation's configuration and the model's; the first is
            the one that ends a text in training.
        vocab_size: number of the model's tokens.
        where: the checkpoint, for messages.

    Returns:
        The ids (configured ones, the tokenizer's end token, what its chat template writes behind
        an answer), and notes for the user.

    Raises:
        BadInputError: a configured id is beyond the vocabulary.
    """
    found = list(configured)
    beyond = [token for token in found if not 0 <= token < vocab_size]
    if beyond:
        raise BadInputError(
            f"{where}: eos_token_id {beyond[0]} is beyond the model's {vocab_size} tokens; mend "
            "config.json and generation_config.json"
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    template = read_template(folder)
    notes = []
    if template is not None:
        own = tokenizer.token_to_id(template.variables.get("eos_token", ""))
        end = render_turn_end(template).strip()
        turn_end = _first_token(tokenizer, end)
        found += [token for token in (own, turn_end) if token is not None and token < vocab_size]
        if end and turn_end is None:
            notes.append(
                f"chat template: ends an answer with the text {end[:_SHOWN]!r}, which is no token: "
                "generation goes on behind it"
            )
        elif not end:
            notes.append("chat template: writes nothing that ends an answer")
    return tuple(dict.fromkeys(found)), tuple(notes)


def names_of(folder: Path, tokens: Iterable[int]) -> list[str]:
    """Writes ids with their tokens, for people."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [f"{token} ({tokenizer.id_to_token(token)})" for token in tokens]


def _first_token(tokenizer: Tokenizer, text: str) -> int | None:
    """Finds the added token that ``text`` begins with; the longest of several."""
    added = tokenizer.get_added_tokens_decoder().items()
    found = [
        (len(token.content), number) for number, token in added if text.startswith(token.content)
    ]
    return max(found)[1] if text and found else None
