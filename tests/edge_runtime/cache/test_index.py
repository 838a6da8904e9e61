from edge_runtime.cache.index import Index, Run, place
from edge_runtime.cache.record import Record

KEY = b"k" * 32


def record(*layers, tokens=3):
    return Record(1, 0, layers, tokens, 8, 0, "n")


def test_consecutive_layers_of_a_record_are_one_run():
    assert place(((0, 1, 2, 3),), (1, 2, 3)) == (Run(0, 1, 0, 3),)


def test_layers_come_in_the_order_asked_for():
    assert place(((0, 1, 2),), (2, 0)) == (Run(0, 2, 0, 1), Run(0, 0, 1, 1))


def test_layers_are_gathered_from_several_records():
    assert place(((4, 5), (0, 1, 2)), (1, 2, 4)) == (Run(1, 1, 0, 2), Run(0, 0, 2, 1))


def test_one_missing_layer_is_a_miss():
    assert place(((0, 1),), (0, 1, 2)) is None


def test_the_newer_record_counts():
    index, old, new = Index(), record(0, 1), record(1, 2)
    index.add(KEY, old)
    index.add(KEY, new)
    located = index.locate(KEY, (0, 1))
    assert [located.records[run.number] for run in located.runs] == [old, new]
    assert index.missing(KEY, (0, 3, 2)) == (3,)


def test_a_covered_record_is_forgotten():
    index = Index()
    index.add(KEY, record(0))
    index.add(KEY, record(0, 1))
    assert len(index.records(KEY)) == 1


def test_a_record_of_another_length_replaces_what_it_contradicts():
    index = Index()
    index.add(KEY, record(0, tokens=3))
    index.add(KEY, record(1, tokens=4))
    assert index.missing(KEY, (0, 1)) == (0,)


def test_dropping_the_last_record_forgets_the_sample():
    index, only = Index(), record(0)
    index.add(KEY, only)
    index.drop(KEY, only)
    assert list(index) == []
