"""Runs exported graphs and compares them with PyTorch."""
