"""Answers in this process with a trained run: no session, no sockets, no PyTorch."""
