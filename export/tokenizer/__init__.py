"""Writes the tokenizer as transformers reads it."""
