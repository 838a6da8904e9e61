from __future__ import annotations

import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_runtime.contract.errors import StorageError
from edge_runtime.inference import kernel_choice, session
from edge_runtime.inference.kernel_choice import FILE, kept_choice, processor_model

BOUND_SECONDS = 10.0
SOFTWARE = "pacplus 1, onnxruntime 2"


class Chooser:
    """Chooses what it is told to, and counts."""

    def __init__(self, kernel):
        self.kernel, self.asked = kernel, 0

    def __call__(self):
        self.asked += 1
        return self.kernel


def test_what_was_chosen_is_chosen_again_without_a_probe(tmp_path):
    assert kept_choice(tmp_path, SOFTWARE, Chooser("paired")) == "paired"
    later = Chooser("exact")
    assert kept_choice(tmp_path, SOFTWARE, later) == "paired"
    assert not later.asked
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_other_software_and_another_processor_choose_anew(tmp_path, monkeypatch):
    kept_choice(tmp_path, SOFTWARE, Chooser("paired"))
    assert kept_choice(tmp_path, f"{SOFTWARE}.1", Chooser("exact")) == "exact"
    assert kept_choice(tmp_path, f"{SOFTWARE}.1", Chooser("paired")) == "exact"
    monkeypatch.setattr(kernel_choice, "processor_model", lambda: "another")
    assert kept_choice(tmp_path, f"{SOFTWARE}.1", Chooser("paired")) == "paired"


def test_of_two_that_choose_at_a_time_the_first_to_write_is_followed(tmp_path):
    def slowly():
        kept_choice(tmp_path, SOFTWARE, Chooser("paired"))
        return "exact"

    assert kept_choice(tmp_path, SOFTWARE, slowly) == "paired"


@pytest.mark.parametrize("round_", range(20))
def test_of_many_that_choose_at_a_time_all_follow_the_same(tmp_path, round_):
    together = threading.Barrier(8)

    def choose(place):
        def at_once():
            together.wait(BOUND_SECONDS)
            return ("paired", "exact")[place % 2]

        return kept_choice(tmp_path, SOFTWARE, at_once)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(choose, range(8)))) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"kernel": "fast"}', "\x00"])
def test_a_damaged_file_is_made_again(content, tmp_path):
    (tmp_path / FILE).write_text(content)
    assert kept_choice(tmp_path, SOFTWARE, Chooser("exact")) == "exact"
    assert json.loads((tmp_path / FILE).read_text())["kernel"] == "exact"


def test_where_nothing_can_be_written_each_run_chooses(tmp_path):
    absent = tmp_path / "absent"
    assert kept_choice(absent, SOFTWARE, Chooser("exact")) == "exact"
    assert kept_choice(absent, SOFTWARE, Chooser("paired")) == "paired"


def test_a_processor_is_told_by_its_model_and_what_it_can_do():
    name, _, digest = processor_model().rpartition(", ")
    assert name
    assert len(digest) == 16


@pytest.fixture
def saturating(monkeypatch):
    """A processor whose product saturates."""
    monkeypatch.setattr(session, "matmul_integer_is_exact", lambda: False)
    monkeypatch.setattr(session, "_choice_folder", None)
    return monkeypatch


def chosen(monkeypatch, *, pays):
    monkeypatch.setattr(session, "paired_weights_pay", lambda: pays)
    return session.numerics.__wrapped__().kernel


def test_a_process_follows_the_choice_of_an_earlier_one(saturating, tmp_path):
    session.keep_choice_in(lambda: tmp_path)
    assert chosen(saturating, pays=True) == "paired"
    assert chosen(saturating, pays=False) == "paired"


def test_a_kept_choice_that_this_processor_computes_wrong_is_not_followed(saturating, tmp_path):
    session.keep_choice_in(lambda: tmp_path)
    chosen(saturating, pays=True)
    saturating.setattr(session, "paired_weights_are_exact", lambda: False)
    assert chosen(saturating, pays=True) == "exact"


def test_a_home_that_cannot_be_used_keeps_nothing_and_stops_nobody(saturating):
    def nowhere():
        raise StorageError("/nowhere: cannot be used as a folder")

    session.keep_choice_in(nowhere)
    assert chosen(saturating, pays=False) == "exact"


def test_nobody_is_asked_for_a_folder_where_nothing_saturates(monkeypatch):
    monkeypatch.setattr(session, "_choice_folder", None)
    session.keep_choice_in(lambda: pytest.fail("asked"))
    monkeypatch.setattr(session, "matmul_integer_is_exact", lambda: True)
    assert session.numerics.__wrapped__().kernel == "fast"
