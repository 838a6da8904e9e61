"""Writes a checkpoint's tokenizer into a bundle, as transformers reads it.

Since version 5, transformers builds many tokenizers anew by their class and takes little more
than the vocabulary from ``tokenizer.json``; special tokens come from any of five files. So what
``AutoTokenizer`` makes is written, not what the files say, and is then compared with it.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.folders import CONFIG, json_object
from export.checkpoint.load import Checkpoint
from export.checkpoint.quiet import quiet

from .embeddings import beyond_embeddings, check_spare, is_spare, named, without_tokens
from .exact_scores import with_exact_scores
from .parity import by_tokenizers, check_same, first_difference, trial_texts
from .read import Files, read_files, read_tokenizer

_TOKENIZER_CONFIG = "tokenizer_config.json"
_LEGACY_TEMPLATE = "chat_template.json"
# Beyond this, model_max_length is transformers' way to say "not known".
_SANE_LENGTH = 1_000_000


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> tuple[str, ...]:
    """Writes ``tokenizer.json`` and its companions into ``folder``.

    Returns:
        Notes: in what it differs from the checkpoint's files.

    Raises:
        BadInputError: there is no tokenizer, none that the ``tokenizers`` package can do as
            transformers does, or it has tokens that the model has no embeddings for.
    """
    path = checkpoint.path
    files = read_files(path)
    with quiet():
        tokenizer, notes = read_tokenizer(checkpoint, files)
        backend = tokenizer.backend_tokenizer
        notes += _moved(files, backend)
        backend.no_padding()
        backend.no_truncation()
        templates = _templates(tokenizer, path)
        left_out = _needless(checkpoint, tokenizer, list(templates.values()))
        text = without_tokens(backend.to_str(), left_out)
        if type(backend.model).__name__ == "Unigram":
            text = with_exact_scores(text)
        written = tokenizers.Tokenizer.from_str(text)
        written.encode_special_tokens = tokenizer.split_special_tokens
        check_same(written, tokenizer, left_out, str(path))
        notes += _against_file(written, path / "tokenizer.json", type(tokenizer).__name__)
    if left_out:
        notes += (
            f"tokenizer: {named(left_out)} left out: without embeddings, and not needed; their "
            "text is read like any other",
        )
    folder.mkdir()
    (folder / "tokenizer.json").write_text(text, "utf-8")
    fields = json.dumps(
        _configuration(checkpoint, tokenizer, left_out), ensure_ascii=False, indent=1
    )
    (folder / _TOKENIZER_CONFIG).write_text(f"{fields}\n", "utf-8")
    for name, template in templates.items():
        target = _template_file(folder, name)
        target.parent.mkdir(exist_ok=True)
        target.write_text(template, "utf-8")
    return notes


def tokenizer_limit(checkpoint: Checkpoint) -> int | None:
    """Reads ``model_max_length`` of the tokenizer, in tokens; None where it is not known."""
    file = checkpoint.path / _TOKENIZER_CONFIG
    if checkpoint.is_gguf or not file.is_file():
        return None
    fields = json_object(file)
    limit = fields.get("model_max_length", fields.get("max_len"))
    return int(limit) if isinstance(limit, int | float) and 0 < limit < _SANE_LENGTH else None


def _moved(files: Files, backend: tokenizers.Tokenizer) -> tuple[str, ...]:
    """Notes an added token that has another id than its file says: those must have no gaps."""
    added = files.get("tokenizer.json", {}).get("added_tokens", [])
    said = {token.get("content"): token.get("id") for token in added}
    for token, index in (files.get("added_tokens.json", {}) | said).items():
        made = backend.token_to_id(str(token))
        if made is not None and made != index:
            return (f"tokenizer: transformers reads {token!r} as {made}, though files say {index}",)
    return ()


def _needless(checkpoint: Checkpoint, tokenizer: Any, templates: list[str]) -> dict[str, int]:
    """Finds the tokens without embeddings; refuses them if something needs them."""
    path, count = checkpoint.path, checkpoint.config.vocab_size
    backend = tokenizer.backend_tokenizer
    beyond = beyond_embeddings(backend, count)
    if beyond:
        spare = is_spare(tokenizer, backend, _padding(path), templates, path)
        check_spare(beyond, spare, count, path)
    return beyond


def _padding(path: Path) -> Any:
    """Reads ``pad_token_id`` off ``config.json``; the loaded one may have been mended."""
    file = path / CONFIG
    return json_object(file).get("pad_token_id") if file.is_file() else None


def _against_file(written: tokenizers.Tokenizer, file: Path, kind: str) -> tuple[str, ...]:
    """Notes a text that ``tokenizer.json`` alone would read differently."""
    try:
        own = tokenizers.Tokenizer.from_file(str(file))
        own.no_padding()
        own.no_truncation()
        text = first_difference(by_tokenizers(own), by_tokenizers(written), trial_texts())
    except Exception:  # of the package: there is no such file, or only transformers can use it
        return ()
    if text is None:
        return ()
    return (f"tokenizer: as transformers' {kind}; tokenizer.json alone reads {text} differently",)


def _configuration(
    checkpoint: Checkpoint, tokenizer: Any, left_out: dict[str, int]
) -> dict[str, Any]:
    """Makes the fields of ``tokenizer_config.json`` that any tokenizer class understands."""
    roles = tokenizer.special_tokens_map
    length = tokenizer.model_max_length
    types = getattr(checkpoint.config, "type_vocab_size", 0) if checkpoint.family.token_types else 0
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{role: token for role, token in roles.items() if token not in left_out},
        **({"model_max_length": length} if length < _SANE_LENGTH else {}),
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
        **({"num_token_types": types} if types else {}),  # a field of ours
    }


def _templates(tokenizer: Any, path: Path) -> dict[str, str]:
    """Lists chat templates by name, wherever they were found."""
    found = tokenizer.chat_template
    legacy = path / _LEGACY_TEMPLATE
    if found is None and legacy.is_file():
        # Where processors kept theirs; transformers' tokenizers do not look there.
        found = json_object(legacy).get("chat_template")
    templates = found if isinstance(found, dict) else {"default": found} if found else {}
    for name, template in templates.items():
        if not isinstance(template, str) or Path(name).name != name:
            raise BadInputError(f"{path}: its chat template {name!r} is no text with a plain name")
    return templates


def _template_file(folder: Path, name: str) -> Path:
    """Names the file where transformers keeps a chat template."""
    if name == "default":
        return folder / "chat_template.jinja"
    return folder / "additional_chat_templates" / f"{name}.jinja"
