"""Reads GGUF files: every key and every tensor is used, known to be harmless, or refused."""
