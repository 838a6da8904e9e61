"""Finds the tokens that a model has no embeddings for.

A token that is never made of ordinary text and that the model was not made to read, such as
the padding that somebody added, can be left out. Any other would end training at the first
text that has it, hence is refused.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from edge_runtime.contract.errors import BadInputError
from export.wording import listed

from .read import JSON_FILES

_MOST_NAMED = 4
_SPARE_ROLES = re.compile("(pad|mask|image|audio|video|vision|boi|eoi|boa|eoa)_")


def beyond_embeddings(backend: tokenizers.Tokenizer, num_embeddings: int) -> dict[str, int]:
    """Lists the tokens whose ids are ``num_embeddings`` or more, in order."""
    vocabulary = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    return {token: index for token, index in vocabulary if index >= num_embeddings}


def named(tokens: Mapping[str, int]) -> str:
    """Writes tokens with their ids, the first few of many."""
    return listed((f"{token!r} = {index}" for token, index in tokens.items()), _MOST_NAMED)


def check_spare(
    beyond: Mapping[str, int],
    spare: Callable[[str], bool],
    num_embeddings: int,
    path: Path,
) -> None:
    """Refuses tokens beyond the embeddings that are not spare.

    Raises:
        BadInputError: names them.
    """
    needed = {token: index for token, index in beyond.items() if not spare(token)}
    if needed:
        raise BadInputError(
            f"{path}: its tokenizer has tokens that the model's {num_embeddings} embeddings lack: "
            f"{named(needed)}; remove them from the tokenizer's files, take the tokenizer that "
            "the model was trained with, or give the model embeddings for them in transformers: "
            "model.resize_token_embeddings(len(tokenizer)), then train and save it"
        )


def is_spare(
    tokenizer: Any,
    backend: tokenizers.Tokenizer,
    pad_token_id: object,
    templates: Collection[str],
    folder: Path,
) -> Callable[[str], bool]:
    """Tells tokens that can be left out.

    These are added tokens that are padding or mask, that stand for images or sounds, or that
    only the tokenizer's class in transformers names; unless a chat template writes them or
    they are put around every text.

    Args:
        tokenizer: of transformers.
        backend: what was made of it.
        pad_token_id: of the model's configuration.
        templates: chat templates.
        folder: of the checkpoint's files.
    """
    written = "\n".join(templates)
    roles: dict[str, str] = tokenizer.special_tokens_map
    ordinary = backend.get_vocab(with_added_tokens=False)
    framing = set(backend.encode("", "").ids)
    paths = [folder / name for name in JSON_FILES]
    files = "\n".join(path.read_text("utf-8") for path in paths if path.is_file())

    def spare(token: str) -> bool:
        index = backend.token_to_id(token)
        own = {role for role, content in roles.items() if content == token}
        used = token in written or any(role in written for role in own)
        if token in ordinary or index in framing or used:
            return False
        if (own or index == pad_token_id) and all(map(_SPARE_ROLES.match, own)):
            return True
        return not any(json.dumps(token, ensure_ascii=ascii_) in files for ascii_ in (True, False))

    return spare


def without_tokens(text: str, tokens: Collection[str]) -> str:
    """Takes added tokens out of the text of a ``tokenizer.json``."""
    if not tokens:
        return text
    fields = json.loads(text)
    fields["added_tokens"] = [t for t in fields["added_tokens"] if t["content"] not in tokens]
    return json.dumps(fields, ensure_ascii=False)
