"""Makes the tokenizer that a file describes, with llama.cpp's token ids."""

from collections import Counter
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from edge_runtime.contract.errors import BadInputError

from .config import token_id
from .pre_tokenizers import PRE_TOKENIZERS
from .reader import GgufFile

_SPACE = "\u2581"
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_PRE = "tokenizer.ggml.pre"
_TEMPLATE = "tokenizer.chat_template"


def read_tokenizer(file: GgufFile) -> tuple[Any, tuple[str, ...]]:
    """Makes the tokenizer in transformers' form, with its chat templates, and notes.

    Raises:
        BadInputError: it is of a kind that cannot be read.
    """
    kind, tokens = file.metadata.get("tokenizer.ggml.model"), _tokens(file)
    notes: tuple[str, ...] = ()
    if kind == "gpt2":
        tokenizer, adds_bos = _byte_level(file, tokens)
        if _PRE not in file.metadata:
            notes = (f"tokenizer: the file has no {_PRE}: text is cut by llama.cpp's default",)
    elif kind == "llama":
        tokenizer, adds_bos = _sentencepiece(file, tokens), True
    else:
        raise BadInputError(
            f"{file.path}: tokenizer.ggml.model is {kind!r}; gpt2 and llama can be read; "
            "export the model's Hugging Face folder instead"
        )
    _add_whole_tokens(file, tokenizer, tokens)
    roles = {
        field: tokens[found]
        for role, field in _ROLES.items()
        if (found := token_id(file, role)) is not None
    }
    tokenizer.post_processor = _frame(file, tokenizer, roles, adds_bos)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        chat_template=_templates(file),
        **roles,
    )
    return made, notes


def _tokens(file: GgufFile) -> list[str]:
    tokens: list[str] = file.metadata.get("tokenizer.ggml.tokens", [])
    if not tokens:
        raise BadInputError(f"{file.path}: has no tokenizer (tokenizer.ggml.tokens)")
    if len(set(tokens)) < len(tokens):
        ((twice, _),) = Counter(tokens).most_common(1)
        raise BadInputError(f"{file.path}: tokenizer.ggml.tokens has {twice!r} twice")
    return tokens


def _byte_level(file: GgufFile, tokens: list[str]) -> tuple[Tokenizer, bool]:
    name = file.metadata.get(_PRE, "default")
    if name not in PRE_TOKENIZERS:
        raise BadInputError(
            f"{file.path}: {_PRE} is {name!r}, of which it is not known how it cuts text; "
            "export the model's Hugging Face folder instead"
        )
    if file.metadata.get("tokenizer.ggml.add_space_prefix", False):
        raise BadInputError(
            f"{file.path}: tokenizer.ggml.add_space_prefix is not read with byte-level tokens; "
            "export the model's Hugging Face folder instead"
        )
    row = PRE_TOKENIZERS[name]
    # A merge's first token may be a space, so the space that separates is not the first sign.
    merges = [
        (merge[:cut], merge[cut + 1 :])
        for merge in file.metadata.get("tokenizer.ggml.merges", [])
        if (cut := merge.find(" ", 1)) > 0
    ]
    tokenizer = _bpe(file, tokens, merges, ignore_merges=row.whole_words)
    tokenizer.pre_tokenizer = row.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, row.adds_bos


def _sentencepiece(file: GgufFile, tokens: list[str]) -> Tokenizer:
    scores = file.metadata.get("tokenizer.ggml.scores", [])
    if len(scores) != len(tokens):
        raise BadInputError(
            f"{file.path}: tokenizer.ggml.scores has {len(scores)} scores for {len(tokens)} tokens"
        )
    ids = {token: place for place, token in enumerate(tokens)}
    merges = generate_merges(ids, dict(zip(tokens, scores, strict=True)))
    unknown = tokens[token_id(file, "unknown") or 0]
    tokenizer = _bpe(file, tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    spaces = normalizers.Replace(" ", _SPACE)
    prefix = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])]
    )
    return tokenizer


def _bpe(
    file: GgufFile, tokens: list[str], merges: list[tuple[str, str]], **options: Any
) -> Tokenizer:
    ids = {token: place for place, token in enumerate(tokens)}
    try:
        return Tokenizer(models.BPE(vocab=ids, merges=merges, **options))
    except Exception as error:  # the package raises nothing more specific
        raise BadInputError(
            f"{file.path}: tokenizer.ggml.merges do not go with its tokens ({error})"
        ) from None


def _add_whole_tokens(file: GgufFile, tokenizer: Tokenizer, tokens: list[str]) -> None:
    """Adds what is never cut: control tokens, and text that its makers kept whole."""
    types = file.metadata.get("tokenizer.ggml.token_type", [])
    if types and len(types) != len(tokens):
        raise BadInputError(
            f"{file.path}: tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} "
            "tokens"
        )
    kinds = dict(zip(tokens, types, strict=False))
    added = (_UNKNOWN, _CONTROL, _USER_DEFINED)
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind != _USER_DEFINED)
            for token, kind in kinds.items()
            if kind in added and token
        ]
    )


def _frame(
    file: GgufFile, tokenizer: Tokenizer, roles: dict[str, str], adds_bos: bool
) -> processors.TemplateProcessing:
    """Puts BOS and EOS around texts as the file says, by default as llama.cpp does."""
    sides = {}
    for role, default in (("bos", adds_bos), ("eos", False)):
        wanted = file.metadata.get(f"tokenizer.ggml.add_{role}_token", default)
        if wanted and f"{role}_token" not in roles:
            raise BadInputError(
                f"{file.path}: texts must get their {role.upper()}, but there is no "
                f"tokenizer.ggml.{role}_token_id"
            )
        sides[role] = [roles[f"{role}_token"]] if wanted else []

    def framed(text: str, segment: int) -> list[str]:
        return [f"{part}:{segment}" for part in (*sides["bos"], text, *sides["eos"])]

    return processors.TemplateProcessing(
        single=framed("$A", 0),
        pair=framed("$A", 0) + framed("$B", 1),
        special_tokens=[
            (token, tokenizer.token_to_id(token)) for side in sides.values() for token in side
        ],
    )


def _templates(file: GgufFile) -> str | dict[str, str] | None:
    """Finds the chat template; by name where there are several."""
    main: str | None = file.metadata.get(_TEMPLATE)
    named = {
        key.removeprefix(f"{_TEMPLATE}."): text
        for key, text in file.metadata.items()
        if key.startswith(f"{_TEMPLATE}.")
    }
    return {"default": main, **named} if main and named else main or named or None
