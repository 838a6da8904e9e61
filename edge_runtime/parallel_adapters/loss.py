"""Summed losses and their gradients with respect to the outputs."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits_BC: Tensor, targets_B: Tensor) -> tuple[float, Tensor]:
    """Sum over the samples of -log softmax(logits)[target], in nats."""
    log_probabilities = torch.log_softmax(logits_BC, 1)
    index = targets_B[:, None]
    loss = -float(log_probabilities.gather(1, index).sum())
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, index, torch.full(index.shape, -1.0))
    return loss, gradient


def squared_error(outputs_B1: Tensor, targets_B: Tensor) -> tuple[float, Tensor]:
    """Sum over the samples of (output - target)^2."""
    difference = outputs_B1 - targets_B[:, None]
    return float(difference.square().sum()), difference.mul_(2)
