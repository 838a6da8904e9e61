import pytest

from coordinator.data import FieldNames, unread_fields
from edge_runtime.contract.errors import UsageError


@pytest.mark.parametrize(
    ("task", "names", "said"),
    [
        ("causal-lm", {"text": "prompt"}, "--text-field and --prompt-field are both 'prompt'"),
        ("classification", {"text": "a", "text_pair": "a"}, "--text-field and --text-pair-field"),
        ("regression", {"label": "text"}, "--text-field and --label-field are both 'text'"),
        ("causal-lm", {"label": "a"}, "--label-field is nothing that causal-lm reads; it has --t"),
        ("seq2seq", {"text": "a"}, "--text-field is nothing that seq2seq reads"),
        ("seq2seq", {"ignored": ("target",)}, "--ignore-field target: --target-field needs it"),
        ("causal-lm", {"text": "a", "ignored": ("a",)}, "--ignore-field a: --text-field needs it"),
    ],
)
def test_names_of_which_the_meaning_is_not_clear_are_refused(task, names, said) -> None:
    with pytest.raises(UsageError, match=said):
        FieldNames(**names).check(task)


def test_names_of_different_tasks_do_not_collide() -> None:
    FieldNames(label="target").check("classification")
    FieldNames(source="text", target="label").check("seq2seq")


def test_a_name_given_to_a_field_means_nothing_else() -> None:
    names = FieldNames(text="instruction")
    assert names.read_by("text") == {"instruction"}
    assert "instruction" not in names.read_by("instruction")


@pytest.mark.parametrize(
    ("form", "line", "field"),
    [
        ("labelled", {"text": "a", "label": "b", "weight": 0.5}, "weight"),
        ("labelled", {"text": "a", "label": "b", "hypothesis": "c"}, "hypothesis"),
        ("text", {"text": "a", "loss_mask": [0, 1]}, "loss_mask"),
        ("text", {"text": "a", "images": ["a.png"]}, "images"),
        ("completion", {"prompt": "a", "completion": "b", "tools": [{}]}, "tools"),
        ("completion", {"prompt": "a", "completion": "b", "system": "c"}, "system"),
        ("chat", {"messages": [], "rejected": [{}]}, "rejected"),
        ("chat", {"messages": [], "completion": "b"}, "completion"),
        ("pair", {"source": "a", "target": "b", "context": "c"}, "context"),
        ("labelled", {"text": "a", "label": "b", "Sample-Weight": "0.5"}, "Sample-Weight"),
        ("text", {"text": "a", "lossMask": [0]}, "lossMask"),
        ("completion", {"prompt": "a", "completion": "b", "label": False}, "label"),
    ],
)
def test_a_field_that_would_change_what_is_learnt_is_found(form, line, field) -> None:
    idle, ((index, name, _),) = unread_fields([{"id": 1}, line], FieldNames(), form)
    assert (index, name, idle) == (1, field, ("id",))
    ignoring = FieldNames(ignored=(field,))
    assert unread_fields([line], ignoring, form) == ((), ())


@pytest.mark.parametrize(
    "neutral",
    [
        {"weight": 1},
        {"weight": 1.0},
        {"train": True},
        {"label": 0},
        {"labels": "x"},
        {"tokens": 3},
        {"system": ""},
        {"tools": []},
        {"weight": "1"},
    ],
)
def test_a_field_that_says_nothing_is_only_noted(neutral) -> None:
    (name,) = neutral
    line = {"prompt": "a", "completion": "b", **neutral}
    assert unread_fields([line], FieldNames(), "completion") == ((name,), ())


def test_where_nothing_is_learnt_only_what_is_read_matters() -> None:
    line = {"text": "a", "weight": 0, "text2": "b"}
    _, meaning = unread_fields([line], FieldNames(), "labelled", learning=False)
    assert [name for _, name, _ in meaning] == ["text2"]
