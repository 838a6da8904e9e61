"""Settings that are trained side by side: each as if it were alone, from one reading."""

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import AllReduceClosedError, RemoteError, UnresumableError
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.tensors import read_tensors
from edge_runtime.messaging.tagging import tagged
from edge_runtime.training import samples as owned_samples
from edge_runtime.training import side_by_side
from tests.edge_runtime.training import mesh as mesh_module
from tests.edge_runtime.training.mesh import (
    COUNT,
    OPTIONS,
    SHARDS,
    A,
    B,
    Data,
    Mesh,
    Rich,
    Transformations,
    count_tokens,
    prepare,
    run,
)

STEPS = steps_per_epoch(COUNT, SHARDS)
HELD_OUT = [3, 0, 7, 12]
ALL = {A: tuple(range(SHARDS))}


def settings(data: Data, *rates: float) -> tuple[m.Setting, ...]:
    """Settings of other rates; the second one is of another shape besides."""
    shapes = [
        dataclasses.replace(data.config, kind="mlp" if i == 1 else "attention")
        for i in range(len(rates))
    ]
    return tuple(
        m.Setting(
            number=i,
            config=shape,
            options=dataclasses.replace(OPTIONS, learning_rate=rate, adapter_seed=11 + i),
        )
        for i, (shape, rate) in enumerate(zip(shapes, rates, strict=True))
    )


def request(chosen: tuple[m.Setting, ...], epoch: int = 1, **changes) -> m.TrainSettings:
    fields = {"first_step": 0, "num_steps": STEPS, "total_steps": OPTIONS.epochs * STEPS}
    return m.TrainSettings(settings=chosen, epoch=epoch, **{**fields, **changes})


def ready(mesh: Mesh, data: Data) -> np.ndarray | None:
    """A device with all samples; returns what tokens are sampled by."""
    prepare(mesh, data, ALL)
    own = dataclasses.replace(data.own(HELD_OUT, "eval"), total=len(HELD_OUT))
    mesh.roles[A].own(own)
    mesh.answer(A, m.SamplesReady)
    return count_tokens(mesh) if data.config.generative else None


def try_all(mesh: Mesh, asked: m.TrainSettings) -> m.SettingsTrained:
    mesh.roles[A].train_settings(asked)
    return mesh.answer(A, m.SettingsTrained)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "data", [Data(), Transformations(), Rich()], ids=["classes", "tokens", "many tokens"]
)
def test_a_setting_comes_to_the_same_bits_as_alone(mesh, data, monkeypatch):
    chosen = settings(data, 1e-2, 3e-3, 3e-2)
    only = mesh(A)
    counts = ready(only, data)
    for epoch in (1, 2):
        first = request(chosen, epoch, num_steps=2, token_counts=counts)
        try_all(only, first)
        done = try_all(
            only, request(chosen, epoch, first_step=2, num_steps=STEPS - 2, sends_state=True)
        )
    best = min(range(3), key=lambda place: (-done.correct[place], done.losses[place]))
    data_alone = type(data)()
    data_alone.config = chosen[best].config
    monkeypatch.setattr(mesh_module, "OPTIONS", chosen[best].options)
    losses, (alone,) = run(mesh(A), data_alone, ALL)
    state = side_by_side_state(done)
    assert alone.keys() == state.keys()
    assert all(np.array_equal(state[name], alone[name]) for name in alone)
    sums = done.sums[best]
    assert sums.loss_sum / sums.count == losses[-1]


def side_by_side_state(done: m.SettingsTrained) -> dict[str, np.ndarray]:
    return read_tensors(done.state.tobytes())


def test_each_batch_is_read_once_for_all(mesh, data, monkeypatch):
    read: list[int] = []

    def counting(batch):
        def counted(owned, chosen):
            read.extend(chosen.tolist())
            return batch(owned, chosen)

        return counted

    for name in ("batch", "packed_batch"):
        counted = counting(getattr(owned_samples.OwnedSamples, name))
        monkeypatch.setattr(owned_samples.OwnedSamples, name, counted)
    only = mesh(A)
    ready(only, data)
    done = try_all(only, request(settings(data, 1e-2, 3e-3, 1e-3, 1e-4)))
    assert len(read) == COUNT + len(HELD_OUT)
    assert done.shared_seconds > 0
    assert (done.seconds > 0).all()


def test_the_held_out_loss_is_that_of_the_outputs(mesh, data):
    only = mesh(A)
    ready(only, data)
    chosen = settings(data, 1e-2)
    done = try_all(only, request(chosen, sends_state=True))
    only.roles[A].take_state(m.TakeState(data=done.state, step=STEPS, sums=done.sums[0]))
    only.answer(A, m.StateTaken)
    only.roles[A].evaluate(m.Evaluate())
    found = only.answer(A, m.Outputs)
    logits = found.outputs.astype(np.float64)
    targets = data.targets[found.indices]
    log = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), targets]
    assert done.losses[0] == pytest.approx(log.mean())
    assert done.correct.tolist() == [(logits.argmax(1) == targets).sum()]


def test_the_state_is_that_of_the_most_accurate_classifier_whatever_its_loss(
    mesh, data, monkeypatch
):
    def more_right_with_more_loss(config, outputs, batch):
        right = int((outputs.argmax(axis=1) == batch.targets).sum())
        return float(right), len(outputs)

    monkeypatch.setattr(side_by_side, "summed_loss", more_right_with_more_loss)
    only, chosen = mesh(A), settings(data, 1e-2, 1e-9, 3e-3, 1e-8)
    ready(only, data)
    done = try_all(only, request(chosen, sends_state=True))
    assert len(set(done.correct.tolist())) > 1
    best = int(done.correct.argmax())
    assert done.losses[best] == done.losses.max()
    alone = side_by_side_state(try_all(only, request((chosen[best],), sends_state=True)))
    assert all(np.array_equal(each, alone[n]) for n, each in side_by_side_state(done).items())


def test_without_classes_nothing_is_right_or_wrong(mesh):
    data = Transformations()
    only = mesh(A)
    counts = ready(only, data)
    done = try_all(only, request(settings(data, 1e-2), token_counts=counts))
    assert done.correct.tolist() == [0]


def test_no_setting_is_trained_before_it_is_known_what_is_sampled(mesh):
    data = Rich()
    only = mesh(A)
    ready(only, data)
    role, chosen = only.roles[A], settings(data, 1e-2)
    with pytest.raises(RemoteError, match="to be sampled by"):
        role.train_settings(request(chosen))
    for wrong in (np.zeros((2, 3), np.int64), np.full((2, 900), -1, np.int64)):
        with pytest.raises(RemoteError, match="of this vocabulary"):
            role.train_settings(request(chosen, token_counts=wrong))


def test_a_setting_that_is_not_named_any_more_is_forgotten(mesh, data):
    only = mesh(A)
    ready(only, data)
    first, second = settings(data, 1e-2, 1e-3)
    try_all(only, request((first, second), num_steps=2))
    try_all(only, request((first,), first_step=2, num_steps=1))
    with pytest.raises(RemoteError, match="does not train"):
        only.roles[A].train_settings(request((second,), first_step=2, num_steps=1))


def test_settings_go_on_where_they_are_and_nowhere_else(mesh, data):
    only = mesh(A)
    ready(only, data)
    chosen = settings(data, 1e-2, 1e-3)
    try_all(only, request(chosen, num_steps=2))
    with pytest.raises(RemoteError, match="not at step 3"):
        only.roles[A].train_settings(request(chosen, first_step=3, num_steps=1))
    with pytest.raises(RemoteError, match="has no steps"):
        only.roles[A].train_settings(request(chosen, first_step=2))


def test_one_that_diverges_does_not_end_the_others(mesh, data):
    only = mesh(A)
    ready(only, data)
    with np.errstate(all="ignore"):
        done = try_all(only, request(settings(data, 1e-2, 1e38), sends_state=True))
    assert np.isfinite(done.losses).tolist() == [True, False]
    with pytest.raises(UnresumableError, match="--learning-rate"), np.errstate(all="ignore"):
        only.roles[A].train_settings(request(settings(data, 1e38, 1e38)))


def test_an_owner_of_some_samples_trains_no_settings(mesh, data):
    both = mesh(A, B)
    prepare(both, data, {A: (0, 1), B: (2, 3)})
    both.roles[A].own(dataclasses.replace(data.own([], "eval"), total=0))
    both.answer(A, m.SamplesReady)
    with pytest.raises(RemoteError, match="alone"):
        both.roles[A].train_settings(request(settings(data, 1e-2)))


def test_a_new_term_ends_the_steps_under_way(mesh, data, monkeypatch):
    only = mesh(A)
    ready(only, data)
    apply = side_by_side._apply

    def begin_term(*given):
        only.roles[A].begin_term()
        apply(*given)

    monkeypatch.setattr(side_by_side, "_apply", begin_term)
    with pytest.raises(AllReduceClosedError):
        only.roles[A].train_settings(request(settings(data, 1e-2)))


def test_steps_of_a_term_that_is_over_do_not_begin_and_those_of_the_next_do(mesh, data):
    only = mesh(A)
    ready(only, data)
    asked = request(settings(data, 1e-2), num_steps=1)
    only.roles[A].begin_term(2)  # after the request of term 1 has been taken out of the queue
    with tagged(Tag(term=1)), pytest.raises(AllReduceClosedError):
        only.roles[A].train_settings(asked)
    with tagged(Tag(term=2)):
        assert try_all(only, asked).sums[0].steps == 1


def test_progress_is_told_while_a_step_is_trained_with_each_setting(mesh, data, monkeypatch):
    only, told, before_update = mesh(A), [], []
    ready(only, data)
    apply = side_by_side._apply

    def counted(*given):
        before_update.append(len(told))
        apply(*given)

    monkeypatch.setattr(side_by_side._Clock, "report", lambda _, lanes: told.append(len(lanes)))
    monkeypatch.setattr(side_by_side, "_apply", counted)
    try_all(only, request(settings(data, 1e-2, 3e-3, 1e-3), num_steps=1))
    assert before_update == [3] * 3


def test_a_held_out_loss_that_is_no_number_is_the_worst(mesh, data, monkeypatch):
    only, asked = mesh(A), []

    def broken_first(config, outputs, batch):
        asked.append(config)
        loss, count = really(config, outputs, batch)
        return (np.nan if config.kind == "attention" else loss), count

    really = side_by_side.summed_loss
    ready(only, data)
    monkeypatch.setattr(side_by_side, "summed_loss", broken_first)
    done = try_all(only, request(settings(data, 1e-2, 1e-3), sends_state=True))
    assert asked
    assert np.isinf(done.losses).tolist() == [True, False]
    assert done.losses[1] > 0


def test_all_that_diverge_after_an_epoch_that_was_good_leave_its_best(mesh, data, monkeypatch):
    only = mesh(A)
    ready(only, data)
    chosen = settings(data, 1e-2, 1e-3)
    try_all(only, request(chosen, sends_state=True))
    monkeypatch.setattr(side_by_side, "_mean", lambda _: np.inf)
    done = try_all(only, request(chosen, epoch=2, sends_state=True))
    assert np.isinf(done.losses).all()
    assert not done.state.size
