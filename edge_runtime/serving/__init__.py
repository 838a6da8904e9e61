"""Answers with a trained adapter, without PyTorch."""
