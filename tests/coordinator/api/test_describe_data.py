import dataclasses
import shutil

from coordinator.api.describe_data import LengthRange, describe_data, length_ranges
from edge_runtime.contract.manifest import Manifest
from tests.coordinator.tokenization.test_language import llama


def test_without_a_bundle_the_fields_tell_what_would_be_learnt(write) -> None:
    lines = [{"text": "ab" * n, "label": label} for n, label in ((1, "x"), (1, "x"), (9, "y"))]
    found = describe_data(write("a", lines))
    assert (found.task, found.form, found.lines) == ("classification", "labelled", 3)
    assert (found.labels, found.duplicates, found.unit) == ({"x": 2, "y": 1}, 1, "characters")
    assert sum(each.count for each in found.lengths) == 3
    assert describe_data(write("b", [{"source": "a", "target": "b"}])).task == "seq2seq"
    assert describe_data(write("c", [{"prompt": "a", "completion": "b"}])).form == "completion"


def test_a_prompt_that_comes_again_with_another_answer_asks_the_same(write) -> None:
    lines = [{"prompt": "a", "completion": said} for said in ("b", "b", "c")]
    found = describe_data(write("data", lines))
    assert found.duplicates == 2
    assert any("1 prompt stands on several lines" in note for note in found.notes)
    assert found.lengths == (LengthRange(least=2, greatest=2, count=3),)


def test_the_longest_line_is_named(decoder, write) -> None:
    lines = [{"text": "a"}, {"text": "a b"}, {"text": "ab" * 3}] + [{"text": "b"}] * 20
    found = describe_data(data := write("data", lines))
    assert (found.longest, found.longest_place) == (6, f"{data}, line 3")
    lines[1] = {"text": "a " * 300}
    found = describe_data(data := write("data", lines), bundle=decoder)
    assert (found.longest, found.longest_place) == (302, f"{data}, line 2")
    assert found.notes[-1].startswith(f"{data}, line 2 has 302 tokens, all others at most ")


def test_lengths_are_counted_in_ranges_that_hold_them_all() -> None:
    assert length_ranges([7, 7]) == (LengthRange(least=7, greatest=7, count=2),)
    lengths = [0, 1, 1, 2, 5, 9, 40, 41, 999, 1000]
    found = length_ranges(lengths)
    assert (found[0].least, found[-1].greatest) == (0, 1000)
    for each in found:
        assert each.count == sum(each.least <= length <= each.greatest for length in lengths)
    assert sum(each.count for each in found) == len(lengths)


def test_with_a_bundle_samples_are_rendered_with_what_is_learnt_marked(decoder, write) -> None:
    lines = [{"prompt": "a b", "completion": "c"}, {"prompt": "a " * 9, "completion": "d"}]
    found = describe_data(write("data", lines), bundle=decoder)
    assert (found.unit, found.limit, found.truncated, found.samples) == ("tokens", 8, 1, 2)
    first = found.rendered[0]
    assert [(piece.text, piece.learnt) for piece in first.pieces] == [
        ("[CLS] a b", False),
        (" c [SEP]", True),
    ]
    assert first.place.endswith("data, line 1")


def test_of_a_class_the_label_is_shown(model, write) -> None:
    lines = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    found = describe_data(write("data", lines), bundle=model)
    assert [sample.label for sample in found.rendered] == ["x", "y"]
    assert found.rendered[0].pieces[0].text == "[CLS] a [SEP]"


def test_a_blank_before_what_is_learnt_is_shown(tmp_path, decoder, write) -> None:
    llama(tmp_path / "llama")
    shutil.copytree(tmp_path / "llama" / "tokenizer", decoder / "tokenizer", dirs_exist_ok=True)
    manifest = Manifest.from_json((decoder / "manifest.json").read_text())
    whole = dataclasses.replace(manifest, head=dataclasses.replace(manifest.head, vocab_size=64))
    (decoder / "manifest.json").write_text(whole.to_json())
    lines = [{"prompt": "bc", "completion": said} for said in (" a", "a")]
    shown = describe_data(write("data", lines), bundle=decoder).rendered
    assert [sample.pieces[1].text[:2] for sample in shown] == [" a", "a<"]


def test_the_length_of_a_chat_is_that_of_what_is_said(write) -> None:
    parts = [{"type": "text", "text": "abc"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "de"}]
    found = describe_data(write("data", [{"messages": chat}]))
    assert found.lengths == (LengthRange(least=5, greatest=5, count=1),)


def test_what_only_a_chat_template_can_tell_is_said_without_a_bundle(write) -> None:
    turns = [
        {"role": "user", "content": "a", "mood": "calm", "timestamp": 3},
        {"role": "assistant", "content": "b"},
    ]
    (note,) = describe_data(write("data", [{"messages": turns}])).notes
    assert "chat template reads 'mood' of these chats is not known without a bundle" in note
    assert not describe_data(write("plain", [{"messages": [{**turns[1]}]}])).notes
