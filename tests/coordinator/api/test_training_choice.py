"""What training is not told follows from the data and the task."""

import dataclasses

import pytest

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.training_choice import (
    as_begun,
    auto_batch_size,
    check_kept,
    choose_kept,
    default_patience,
)
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import UsageError
from tests.coordinator.runs.test_run_folder import SETTINGS


@pytest.mark.parametrize(
    ("lines", "epochs", "size"),
    [
        (1, 1, 4),
        (100, 3, 4),
        (500, 3, 4),
        (1000, 3, 8),
        (1600, 3, 16),
        (2000, 3, 16),
        (500, 10, 16),
    ],
)
def test_few_lines_of_a_language_model_get_narrow_batches(lines, epochs, size):
    assert auto_batch_size("causal-lm", lines, epochs) == size
    assert auto_batch_size("seq2seq", lines, epochs) == size


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_other_tasks_have_the_batch_that_they_had(task):
    assert {auto_batch_size(task, lines, 3) for lines in (1, 100, 10**6)} == {16}


def test_only_language_models_that_are_evaluated_stop_by_themselves():
    assert default_patience("causal-lm", evaluates=True) == 2
    assert default_patience("causal-lm", evaluates=False) == 0
    assert default_patience("classification", evaluates=True) == 0


def test_the_best_is_kept_where_it_can_be_told():
    kept = {
        evaluates: choose_kept("seq2seq", evaluates=evaluates, keep=None, patience=None, begun=None)
        for evaluates in (True, False)
    }
    assert kept == {True: ("best", 2), False: ("last", 0)}


@pytest.mark.parametrize(("keep", "patience"), [("best", None), (None, 2), ("last", 1)])
def test_what_needs_data_to_judge_by_is_refused_without_them(keep, patience):
    with pytest.raises(UsageError, match="needs data to judge epochs by: give --eval or --split"):
        check_kept(evaluates=False, keep=keep, patience=patience)
    check_kept(evaluates=True, keep=keep, patience=patience)


def test_a_negative_patience_is_refused():
    with pytest.raises(UsageError, match="--patience must not be negative"):
        check_kept(evaluates=True, keep=None, patience=-1)


def test_a_run_that_is_gone_on_with_keeps_what_is_not_given():
    begun = dataclasses.replace(
        SETTINGS, adapter="mlp", learning_rate=3e-4, weight_decay=None, batch_size=8
    )
    adapter, options = as_begun(AdapterChoice(), TrainingOptions(), begun, auto_batch_size=True)
    assert (adapter.kind, options.learning_rate, options.weight_decay) == ("mlp", 3e-4, None)
    assert options.batch_size == 8


def test_what_is_given_is_not_taken_from_the_run():
    begun = dataclasses.replace(SETTINGS, adapter="mlp", learning_rate=3e-4, weight_decay=2.0)
    given = TrainingOptions(learning_rate=1e-2, weight_decay=0.0, batch_size=2)
    adapter, options = as_begun(AdapterChoice(kind="pointer"), given, begun, auto_batch_size=False)
    assert (adapter.kind, options) == ("pointer", given)
