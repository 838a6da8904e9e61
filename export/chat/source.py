"""Finds a tokenizer's chat templates, in the places where transformers puts them."""

import json
from pathlib import Path
from typing import Any

from edge_runtime.contract.errors import BadInputError

from .sandbox import TemplateSource

TEMPLATE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
MORE_TEMPLATES = "additional_chat_templates"


def read_template(folder: Path) -> TemplateSource | None:
    """Reads the template and the special tokens that it may name; None where there is none.

    Raises:
        BadInputError: a file is unreadable.
    """
    config = _json(folder / CONFIG)
    tokens = {**_json(folder / SPECIAL_TOKENS), **config}
    contents = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in tokens.items()
        if name.endswith("_token")
    }
    variables = {name: token for name, token in contents.items() if isinstance(token, str)}
    named = _named(config.get("chat_template"))
    where = folder / CONFIG
    for path in (folder / TEMPLATE, *sorted((folder / MORE_TEMPLATES).glob("*.jinja"))):
        if path.is_file():
            where = folder / TEMPLATE
            named["default" if path.name == TEMPLATE else path.stem] = _text(path)
    if "default" not in named:
        return None
    return TemplateSource(
        where=str(where),
        source=named["default"],
        variables=variables,
        tool_use=named.get("tool_use", ""),
    )


def _named(found: Any) -> dict[str, str]:
    """Lists templates by name; one alone is the default."""
    if isinstance(found, str):
        return {"default": found}
    items = found if isinstance(found, list) else []
    pairs = [(item.get("name"), item.get("template")) for item in items if isinstance(item, dict)]
    return {
        name: source for name, source in pairs if isinstance(name, str) and isinstance(source, str)
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}); export the model again") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON ({error}); export the model again") from None
    return found if isinstance(found, dict) else {}
