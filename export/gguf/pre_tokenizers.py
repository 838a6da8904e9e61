"""Lists how llama.cpp cuts text before it merges bytes, by ``tokenizer.ggml.pre``.

The expressions are those of its ``llama-vocab.cpp``; where it works around its own expression
engine, those of the original tokenizers. Of several, each cuts what the one before left whole.
"""

import dataclasses

from tokenizers import Regex, pre_tokenizers

_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
)
_CJK = r"[一-龥ࠀ-一가-퟿]+"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """One of llama.cpp's pre-tokenizers.

    Attributes:
        expressions: that cut, one after the other.
        whole_words: what is a token by itself is not merged anew.
        adds_bos: texts begin with BOS unless the file says otherwise.
    """

    expressions: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        """Builds the same one of the package ``tokenizers``."""
        cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in self.expressions]
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*cuts, bytes_])


def _alike(row: PreTokenizer, names: str) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), row)


PRE_TOKENIZERS = {
    # Also where a file names none.
    "default": PreTokenizer(
        expressions=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
    ),
    **_alike(
        PreTokenizer(expressions=(_LLAMA3,), whole_words=True, adds_bos=True),
        "llama3 llama-v3 llama-bpe falcon3 pixtral midm-2.0",
    ),
    **_alike(PreTokenizer(expressions=(_LLAMA3,)), "dbrx smaug-bpe"),
    **_alike(PreTokenizer(expressions=(_QWEN2,)), "qwen2 deepseek-r1-qwen stablelm2 hunyuan kormo"),
    **_alike(PreTokenizer(expressions=(_GPT2,)), "gpt-2 phi-2 mpt olmo jais gigachat mellum"),
    **_alike(
        PreTokenizer(expressions=(r"\p{N}", _GPT2)),
        "smollm starcoder refact command-r codeshell exaone minerva-7b",
    ),
    "tekken": PreTokenizer(expressions=(_TEKKEN,), whole_words=True, adds_bos=True),
    **_alike(PreTokenizer(expressions=(_GPT4O,)), "gpt-4o llama4 kanana2"),
    "deepseek-coder": PreTokenizer(
        expressions=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")
    ),
    "falcon": PreTokenizer(expressions=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
}
"""By name. Another one is refused: its texts would be cut differently, without a word."""
