"""Texts to token ids, with the bundle's own tokenizer."""

from .language import LanguageTokenizer, TokenizedLanguage
from .prompts import PromptTokenizer, TokenizedPrompts
from .texts import SampleTokenizer, Tokenized

__all__ = [
    "LanguageTokenizer",
    "PromptTokenizer",
    "SampleTokenizer",
    "Tokenized",
    "TokenizedLanguage",
    "TokenizedPrompts",
]
