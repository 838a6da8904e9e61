"""Settings that are drawn around the one that is asked for."""

import dataclasses
from collections import Counter

import pytest

from coordinator.tuning.design import draw_settings
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions, settled
from edge_runtime.contract.messages import TrainSettings

CONFIG = AdapterConfig(hidden_size=384, layers=(0, 1, 2), task="classification", num_outputs=2)
OPTIONS = TrainingOptions(seed=7)


def test_the_first_setting_is_the_one_asked_for():
    first = draw_settings(CONFIG, OPTIONS, 8)[0]
    assert (first.number, first.config, first.options) == (0, CONFIG, OPTIONS)


def test_the_same_seed_draws_the_same_and_another_draws_others():
    assert draw_settings(CONFIG, OPTIONS, 8) == draw_settings(CONFIG, OPTIONS, 8)
    other = dataclasses.replace(OPTIONS, seed=8)
    rates = [
        [each.options.learning_rate for each in draw_settings(CONFIG, options, 8)]
        for options in (OPTIONS, other)
    ]
    assert rates[0] != rates[1]


def test_every_value_comes_before_one_comes_again():
    drawn = draw_settings(CONFIG, OPTIONS, 31)[1:]
    rates = Counter(each.options.learning_rate for each in drawn)
    kinds = Counter(each.config.kind for each in drawn)
    reductions = Counter(each.config.reduction for each in drawn)
    decays = Counter(each.options.weight_decay for each in drawn)
    assert [len(each) for each in (rates, kinds, reductions, decays)] == [5, 2, 3, 3]
    assert all(max(each.values()) - min(each.values()) <= 1 for each in (rates, kinds, reductions))


def test_all_settings_see_the_same_batches_and_have_first_weights_of_their_own():
    drawn = draw_settings(CONFIG, OPTIONS, 8)
    TrainSettings(settings=drawn, epoch=1, first_step=0, num_steps=1, total_steps=1)
    assert len({each.options.initial_seed for each in drawn}) == 8


def test_weights_pruned_from_the_backbone_fit_one_shape_only():
    pruned = dataclasses.replace(CONFIG, initialization="pruned")
    assert {each.config for each in draw_settings(pruned, OPTIONS, 8)} == {pruned}


@pytest.mark.parametrize("reduction", [1, 3, 384])
def test_no_side_network_is_drawn_that_cannot_be(reduction):
    config = dataclasses.replace(CONFIG, reduction=reduction)
    assert all(each.config.width >= 1 for each in draw_settings(config, OPTIONS, 16))


def test_decays_are_drawn_around_the_task_s_own():
    drawn = draw_settings(CONFIG, OPTIONS, 8)
    assert {settled(each.options, each.config).decay for each in drawn} <= {1.0, 4.0, 16.0}


def test_a_pointers_settings_are_all_pointers():
    """Other kinds would train on another loss, whose candidates lack the context's tokens."""
    pointer = dataclasses.replace(CONFIG, kind="pointer", task="causal-lm", num_outputs=50)
    drawn = draw_settings(pointer, OPTIONS, 8)
    assert {each.config.kind for each in drawn} == {"pointer"}
    assert len({each.config.reduction for each in drawn}) > 1
    others = draw_settings(dataclasses.replace(pointer, kind="mlp"), OPTIONS, 8)
    assert {each.config.kind for each in others} == {"attention", "mlp"}
