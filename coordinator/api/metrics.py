"""Computes the metrics of a task from its outputs. N samples, C classes."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.manifest import Task
from edge_runtime.contract.sample import Ragged

Floats: TypeAlias = npt.NDArray[np.float64]


def metrics(
    task: Task, outputs_NC: npt.ArrayLike, targets_N: npt.ArrayLike | Ragged
) -> dict[str, float]:
    """Computes all metrics of a task.

    Args:
        task: what the outputs are of.
        outputs_NC: logits; or predicted values with C = 1; or, for language models, each
            sample's summed loss in nats, its counted tokens, and how many of them were
            given the highest probability.
        targets_N: class indices, or values; not looked at for language models.

    Returns:
        ``accuracy, macro_f1, loss`` and, with two classes, ``f1``; or ``pearson,
        spearman, loss``; or ``loss, perplexity, token_accuracy``. Always finite for finite
        outputs, but for the perplexity of a loss above 709.

    Raises:
        ValueError: no samples.
    """
    outputs = np.asarray(outputs_NC, np.float64)
    if not len(outputs):
        raise ValueError("no samples to evaluate")
    if isinstance(targets_N, Ragged) or task in ("causal-lm", "seq2seq"):
        return _language(outputs)
    if task == "classification":
        classes, predicted = np.asarray(targets_N, np.int64), outputs.argmax(axis=1)
        result = {
            "accuracy": float((predicted == classes).mean()),
            "macro_f1": macro_f1(predicted, classes),
            "loss": cross_entropy(outputs, classes),
        }
        two = {"f1": f1(predicted, classes, positive=1)} if outputs.shape[1] == 2 else {}
        return {**result, **two}
    values, targets = outputs.reshape(-1), np.asarray(targets_N, np.float64)
    return {
        "pearson": pearson(values, targets),
        "spearman": spearman(values, targets),
        "loss": float(np.square(values - targets).mean()),
    }


def exact_match(generated: Sequence[str], expected: Sequence[str]) -> float:
    """Counts the share of texts that are as expected, but for blanks at their ends and CRLF.

    Raises:
        ValueError: no texts, or not as many of both.
    """
    pairs = list(zip(generated, expected, strict=True))
    if not pairs:
        raise ValueError("no texts to compare")
    return sum(_bare(left) == _bare(right) for left, right in pairs) / len(pairs)


def _bare(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def _language(outputs_N3: Floats) -> dict[str, float]:
    """Averages over tokens, in whichever sample they are."""
    loss_sum, tokens, correct = outputs_N3.sum(axis=0).tolist()
    if not tokens:
        raise ValueError("no counted tokens to evaluate")
    loss = loss_sum / tokens
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 709 else math.inf,
        "token_accuracy": correct / tokens,
    }


def f1(predicted: npt.ArrayLike, targets: npt.ArrayLike, *, positive: int) -> float:
    """Computes the harmonic mean of precision and recall of a class; 0 if it never occurs."""
    chosen, true = np.asarray(predicted) == positive, np.asarray(targets) == positive
    total = int(chosen.sum() + true.sum())
    return 2 * int((chosen & true).sum()) / total if total else 0.0


def macro_f1(predicted: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Averages the F1 of the classes that occur among predictions or targets."""
    classes = np.union1d(np.asarray(predicted), np.asarray(targets)).tolist()
    return sum(f1(predicted, targets, positive=label) for label in classes) / len(classes)


def cross_entropy(logits_NC: Floats, targets_N: npt.NDArray[np.int64]) -> float:
    """Computes the mean negative log-likelihood of the targets, in nats."""
    shifted = logits_NC - logits_NC.max(axis=1, keepdims=True)
    log_normalizer = np.log(np.exp(shifted).sum(axis=1))
    return float((log_normalizer - shifted[np.arange(len(shifted)), targets_N]).mean())


def pearson(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Computes the linear correlation; 0 where it is undefined (one side is constant)."""
    x, y = np.asarray(left, np.float64), np.asarray(right, np.float64)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Computes the correlation of ranks; equal values share the mean of their ranks."""
    return pearson(_mean_ranks(left), _mean_ranks(right))


def _mean_ranks(values: npt.ArrayLike) -> Floats:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
