"""Loads Hugging Face checkpoints and GGUF files of the supported families."""
