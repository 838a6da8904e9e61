"""Texts to token ids, with the bundle's own tokenizer."""

from .language import LanguageTokenizer, TokenizedLanguage
from .texts import SampleTokenizer, Tokenized

__all__ = ["LanguageTokenizer", "SampleTokenizer", "Tokenized", "TokenizedLanguage"]
