import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.samples.samples import Catalogue, SampleTable, plan_work
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from tests.coordinator.session.scenarios import key_of, samples, table

A, B, C = DeviceId("a"), DeviceId("b"), DeviceId("c")
SHARDS = 4


def plan(**owners: tuple[int, ...]) -> Plan:
    return Plan(
        stages=(Stage(first=0, last=1, devices=(StageDevice(device=A),)),),
        owners=tuple(
            Owner(device=DeviceId(name), shards=shards) for name, shards in owners.items()
        ),
        num_shards=SHARDS,
        micro_batch_size=2,
    )


def holding(catalogue: Catalogue, *texts: int) -> np.ndarray:
    wanted = {key_of(text) for text in texts}
    return np.array([key.tobytes() in wanted for key in catalogue.keys])


def work_of(train, evaluation=(), *, which="train", held=None, split=None):
    tables = {"train": table(train, SHARDS)}
    if evaluation:
        tables["eval"] = table(evaluation, SHARDS)
    catalogue = Catalogue.make(tables)
    split = split or plan(a=(0, 1), b=(2, 3))
    caches = {name: holding(catalogue, *(held or {}).get(name, ())) for name in (A, B, C)}
    among = np.arange(len(tables[which]))
    lacking = catalogue.lacking(split, which, caches)
    return catalogue, split, plan_work(catalogue, which, lacking=lacking, held=caches, among=among)


def test_every_line_has_exactly_one_owner():
    lines = table(range(11), SHARDS)
    split = plan(a=(0, 3), b=(1,), c=(2,))
    owned = [lines.owned_by(split, device) for device in (A, B, C)]
    assert sorted(np.concatenate(owned).tolist()) == list(range(11))
    assert lines.owned_by(split, DeviceId("stranger")).size == 0


def test_an_empty_table_has_no_lines():
    empty = SampleTable.make(samples([]), np.zeros(0, np.int64), SHARDS)
    assert len(empty) == 0


def test_the_catalogue_knows_equal_lines_across_data_sets():
    catalogue = Catalogue.make({"train": table([1, 2, 1], SHARDS), "eval": table([2, 3], SHARDS)})
    assert len(catalogue.keys) == 3
    assert len(np.unique(catalogue.keys, axis=0)) == 3
    for which, texts in (("train", [1, 2, 1]), ("eval", [2, 3])):
        found = catalogue.keys[catalogue.distinct[which]]
        assert [key.tobytes() for key in found] == [key_of(text) for text in texts]


def test_what_nobody_holds_is_computed_once_for_all_who_need_it():
    catalogue, split, work = work_of([5, 5])
    assert work.computed == work.distinct == 1
    owners = {device for device in (A, B) if catalogue.needed_by(split, device, "train").any()}
    assert set(work.wanted_by[0]) == owners
    assert work.moves == ()


def test_what_the_owner_holds_is_left_alone():
    _, _, work = work_of(range(6), held={A: range(6), B: range(6)})
    assert (work.computed, work.moves, work.distinct) == (0, (), 6)


def test_what_another_device_holds_is_moved_from_one_source_only():
    catalogue, split, work = work_of(range(6), held={A: range(6), C: range(6)})
    assert work.computed == 0
    assert [move.owner for move in work.moves] == [B]
    needed = np.flatnonzero(catalogue.needed_by(split, B, "train"))
    assert work.moves[0].distinct.tolist() == needed.tolist()


def test_an_owner_that_is_not_asked_for_evaluation_lines_still_gets_its_own():
    _, _, work = work_of(range(6), [2, 9], which="eval", held={A: range(6), B: range(6)})
    assert (work.distinct, work.computed) == (2, 1)


@pytest.mark.parametrize("which", ["train", "eval"])
@settings(deadline=None, derandomize=True)
@given(st.data())
def test_after_moves_and_computing_every_owner_has_what_it_needs(which, data):
    texts = st.integers(0, 7)
    train = data.draw(st.lists(texts, min_size=1, max_size=15))
    evaluation = data.draw(st.lists(texts, min_size=1, max_size=15))
    held = {name: data.draw(st.sets(texts)) for name in (A, B, C)}
    split = plan(**data.draw(st.sampled_from([{"a": (0, 1, 2, 3)}, {"a": (2,), "b": (0, 1, 3)}])))
    catalogue, _, work = work_of(train, evaluation, which=which, held=held, split=split)
    after = {name: holding(catalogue, *texts) for name, texts in held.items()}
    for move in work.moves:
        assert move.source != move.owner
        assert holding(catalogue, *held[move.source])[move.distinct].all()
        assert not after[move.owner][move.distinct].any(), "moved what is there already"
        after[move.owner][move.distinct] = True
    of_line = catalogue.distinct[which]
    for line, owners in zip(work.lines.tolist(), work.wanted_by, strict=True):
        assert owners
        for owner in owners:
            assert not after[owner][of_line[line]]
            after[owner][of_line[line]] = True
    for owner in split.owners:
        needed = catalogue.needed_by(split, owner.device, which)
        assert (after[owner.device] >= needed).all()
    lines = train if which == "train" else evaluation
    assert {lines[line] for line in work.lines} == set(lines) - set.union(*held.values())
    assert len(set(of_line[work.lines].tolist())) == work.computed
