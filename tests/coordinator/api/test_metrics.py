import math

import numpy as np
import pytest

from coordinator.api.metrics import (
    cross_entropy,
    exact_match,
    f1,
    macro_f1,
    metrics,
    pearson,
    spearman,
)
from edge_runtime.contract.sample import Ragged


def test_f1_of_a_hand_counted_case() -> None:
    # 2 true positives, 1 false positive, 1 false negative: precision = recall = 2/3.
    assert f1([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], positive=1) == pytest.approx(2 / 3)


def test_macro_f1_is_the_mean_over_classes_that_occur() -> None:
    # Class 0: 2*1/(1+2), class 2: 2*1/(2+1), class 1 never occurs.
    assert macro_f1([0, 2, 2], [0, 0, 2]) == pytest.approx(2 / 3)


def test_f1_of_a_class_that_never_occurs_is_zero() -> None:
    assert f1([0, 0], [0, 0], positive=1) == 0


def test_cross_entropy_of_equal_logits_is_log_of_the_classes() -> None:
    assert cross_entropy(np.zeros((3, 7)), np.array([0, 3, 6])) == pytest.approx(math.log(7))


def test_cross_entropy_of_huge_logits_stays_finite() -> None:
    assert cross_entropy(np.array([[1e5, 0.0]]), np.array([1])) == pytest.approx(1e5)


def test_correlations_of_a_line_are_one() -> None:
    x = np.arange(5.0)
    assert pearson(x, 3 * x - 1) == pytest.approx(1)
    assert pearson(x, -x) == pytest.approx(-1)
    assert spearman(x, np.exp(x)) == pytest.approx(1)


def test_pearson_of_a_hand_counted_case() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)


def test_ties_share_the_mean_rank() -> None:
    # Ranks (1, 2.5, 2.5, 4) against (1, 2, 3, 4): 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 7, 7, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_correlation_with_a_constant_is_zero() -> None:
    assert pearson([1, 1, 1], [1, 2, 3]) == 0


def test_two_classes_have_f1_and_more_do_not() -> None:
    two = metrics("classification", [[2.0, 1.0], [0.0, 3.0]], [0, 1])
    assert (two["accuracy"], two["macro_f1"], two["f1"]) == (1, 1, 1)
    assert set(metrics("classification", [[2.0, 1.0, 0.0]], [1])) == {
        "accuracy",
        "macro_f1",
        "loss",
    }


def test_regression_has_correlations_and_squared_error() -> None:
    result = metrics("regression", [[1.0], [2.0], [5.0]], [1.0, 2.0, 3.0])
    assert result["loss"] == pytest.approx(4 / 3)
    assert result["spearman"] == pytest.approx(1)
    assert set(result) == {"pearson", "spearman", "loss"}


def test_no_samples_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no samples"):
        metrics("classification", np.empty((0, 2)), [])


@pytest.mark.parametrize("task", ["causal-lm", "seq2seq"])
def test_every_counted_token_of_a_language_model_weighs_the_same(task) -> None:
    result = metrics(task, [[6.0, 2, 1], [0.0, 4, 4]], Ragged.from_rows([[1, 2], [1, 2, 3, 4]]))
    assert result == {
        "loss": pytest.approx(1),
        "perplexity": pytest.approx(math.e),
        "token_accuracy": pytest.approx(5 / 6),
    }


def test_the_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert metrics("causal-lm", [[1e6, 1, 0]], Ragged.from_rows([[1]]))["perplexity"] == math.inf


def test_without_counted_tokens_there_are_no_metrics() -> None:
    with pytest.raises(ValueError, match="no counted tokens"):
        metrics("seq2seq", [[0.0, 0, 0]], Ragged.from_rows([[-1]]))


def test_texts_match_but_for_blanks_around_them() -> None:
    assert exact_match([" a\n", "b", "C"], ["a", "b", "c"]) == pytest.approx(2 / 3)
    assert exact_match(["a\nb"], ["a\r\nb\r\n"]) == 1
    with pytest.raises(ValueError, match="no texts"):
        exact_match([], [])
    with pytest.raises(ValueError, match="zip"):
        exact_match(["a"], [])
