"""The comparison of side network and LoRA, from the rows that runs leave."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.language_models.curves import fewer_lines_curves, lora_curves, side_curves
from benchmarks.language_models.lines import write_lines
from benchmarks.language_models.results import Results, Row
from benchmarks.language_models.summary import summary


def side(epochs: int, after: float, train: float, **more: object) -> Row:
    return {
        "method": "side",
        "loss": "candidates",
        "adapter": "mlp",
        "reduction": 8,
        "rate": 2e-3,
        "seed": 0,
        "epochs": epochs,
        "before": 1.7,
        "after": after,
        "by_epoch": [],
        "all_computed": False,
        "cpu_seconds": {"start": 1.0, "profile": 1.0, "fill": 6.0, "train": train},
        "coordinator_cpu_seconds": 2.0,
        **more,
    }


def lora(epoch: float, seconds: float, loss: float, rate: float = 1e-3) -> Row:
    settings = {"method": "lora", "rate": rate, "seed": 0, "epochs": 1}
    step = round(8 * epoch)
    return {**settings, "step": step, "epoch": epoch, "cpu_seconds": seconds, "loss": loss}


# 10 before the first update; the first run finds candidates in 4; 3 an epoch.
SIDE = [side(2, 1.2, 10.0, all_computed=True), side(1, 1.4, 3.0)]
LORA = [lora(0.0, 0.0, 1.6), lora(0.5, 60.0, 1.3), lora(1.0, 120.0, 1.1)]


def test_the_side_networks_curve_begins_with_the_fill_and_finds_candidates_once() -> None:
    (curve,) = side_curves(SIDE)

    assert [point.cpu_seconds for point in curve.points] == pytest.approx([10.0, 17.0, 20.0])
    assert [point.loss for point in curve.points] == [1.7, 1.4, 1.2]
    assert curve.epoch_seconds == pytest.approx(3.0)


def test_a_run_that_evaluates_its_epochs_needs_no_shorter_ones() -> None:
    (curve,) = side_curves([side(2, 1.2, 6.0, all_computed=True, by_epoch=[1.5, 1.2])])

    assert [point.loss for point in curve.points] == [1.7, 1.5, 1.2]


def test_the_best_rate_of_lora_comes_first() -> None:
    worse = [lora(0.0, 0.0, 1.6, 1e-2), lora(1.0, 120.0, 1.5, 1e-2)]

    assert [curve.best.loss for curve in lora_curves([*worse, *LORA])] == [1.1, 1.5]


def test_the_table_says_how_far_both_fall_and_where_lora_is_better() -> None:
    text, _ = summary([*SIDE, *LORA])

    assert "| 1.200 (2) | 0.80 | 10.0 | 3.0 | 40.0 |" in text
    assert "ahead of LoRA at all of its 2 points" not in text
    assert "LoRA is ahead at 120 CPU-s (1.100 to 1.200)" in text
    assert "LoRA is better for who can wait: below 1.200 from 120 CPU-s on" in text


def test_a_smaller_budget_may_be_spent_on_fewer_lines() -> None:
    fewer = side(2, 1.25, 40.0, method="fewer", lines=100, all_computed=True)

    (curve,) = fewer_lines_curves([*SIDE, fewer])
    assert len(fewer_lines_curves([fewer, {**fewer, "adapter": "pointer"}])) == 2
    assert [point.cpu_seconds for point in curve.points] == [0.0, 50.0]
    slow = [dict(row, cpu_seconds={"start": 70.0, "train": 9.0}) for row in SIDE]
    text, drawing = summary([*slow, *LORA])
    assert "LoRA is ahead at 60 CPU-s (1.300 to 1.700), 120" in text
    text, drawing = summary([*slow, fewer, *LORA])
    assert "LoRA is ahead at 120 CPU-s" in text
    name = "side network, 100 lines, mlp, r = 8, rate 0.002, epochs: 2"
    assert f"{name}, start and fill included: 1.250 for 50 CPU-s." in text
    assert "side network, 100 lines" in drawing


@pytest.mark.parametrize("rows", [[], SIDE, LORA, [*SIDE, *LORA]])
def test_whatever_is_measured_so_far_is_drawn(rows: list[Row]) -> None:
    _, drawing = summary(rows)

    assert ElementTree.fromstring(drawing).tag.endswith("svg")


def test_a_row_that_was_cut_off_as_it_was_written_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).add(SIDE[0])
    with path.open("a") as file:
        file.write('{"method": "si')

    results = Results(path)
    results.add(SIDE[1])

    assert results.rows == Results(path).rows == SIDE


def test_instructions_of_all_columns_become_prompts_with_completions(tmp_path: Path) -> None:
    own = '{"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}]}\n'
    chat = '{"text": "### Human: Hi### Assistant: Ho### Human: He### Assistant: Ha"}\n'
    (tmp_path / "a.jsonl").write_text(own)
    (tmp_path / "b.jsonl").write_text(chat)
    out = tmp_path / "out"
    out.mkdir()

    files = write_lines(tmp_path, out, {"train": 1, "dev": 1})

    found = {files[part].read_text() for part in files}
    assert found == {
        '{"prompt": "Add.\\n1 1", "completion": "2"}\n',
        '{"prompt": "Hi", "completion": "Ho"}\n',
    }
