"""Texts to token ids, with the bundle's own tokenizer."""

from .language import LanguageTokenizer, TokenizedLanguage
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
]
