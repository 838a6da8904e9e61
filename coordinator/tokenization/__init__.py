"""Texts to token ids, with the bundle's own tokenizer."""

from .language import LanguageTokenizer, TokenizedLanguage, keys_to_write
from .loading import decoder_of
from .prompts import PromptTokenizer, TokenizedPrompts
from .texts import SampleTokenizer, Tokenized

__all__ = [
    "LanguageTokenizer",
    "PromptTokenizer",
    "SampleTokenizer",
    "Tokenized",
    "TokenizedLanguage",
    "TokenizedPrompts",
    "decoder_of",
    "keys_to_write",
]
