"""The table of settings that were compared."""

import dataclasses

from coordinator.render.tuning import repeated, tuning_table
from coordinator.runs.tuning_report import SettingReport, TuningReport
from tests.coordinator.render.test_report import console, text_of

ASKED_FOR = SettingReport(
    number=0,
    adapter="attention",
    reduction=8,
    learning_rate=1e-3,
    weight_decay=4.0,
    adapter_seed=0,
    held_out_loss=(0.6, 0.4, 0.3),
    held_out_accuracy=(0.6, 0.7, 0.8),
    best_step=20,
    cpu_seconds=1.0,
)
BEST = dataclasses.replace(
    ASKED_FOR,
    number=2,
    held_out_loss=(0.6, 0.5, 0.7),
    held_out_accuracy=(0.5, 0.9, 0.7),
    best_step=10,
)
DROPPED = dataclasses.replace(
    ASKED_FOR, number=1, held_out_loss=(0.9,), held_out_accuracy=(0.4,), best_step=5
)
TUNING = TuningReport(
    best=2,
    step=10,
    steps=(5, 10, 20),
    shared_cpu_seconds=1.0,
    repeat={"--adapter": "attention"},
    settings=(ASKED_FOR, DROPPED, BEST),
)


def rows(tuning: TuningReport) -> list[str]:
    seen = console()
    seen.print(tuning_table(tuning))
    return [" ".join(line.split()) for line in text_of(seen).splitlines()[2:]]


def test_the_one_that_is_kept_comes_first_with_what_its_adapter_is_worth():
    assert rows(TUNING) == [
        "2 * attention r=8 0.001 4 10/20 0.9000 0.5000 1.0 s",
        "0 (asked) attention r=8 0.001 4 20/20 0.8000 0.3000 1.0 s",
        "1 attention r=8 0.001 4 5/5 0.4000 0.9000 1.0 s",
    ]


def test_large_numbers_stay_on_a_line():
    longest = dataclasses.replace(ASKED_FOR, learning_rate=0.00025, cpu_seconds=123.4)
    tuning = dataclasses.replace(
        TUNING, best=0, step=1145, steps=(143, 286, 1145), settings=(longest, BEST, DROPPED)
    )
    tuning = dataclasses.replace(
        tuning,
        settings=tuple(
            dataclasses.replace(each, best_step=tuning.steps[len(each.held_out_loss) - 1])
            for each in tuning.settings
        ),
    )
    assert rows(tuning)[0] == "0 (asked) * attention r=8 0.00025 4 1145/1145 0.8000 0.3000 123.4 s"


def test_of_equal_length_the_more_accurate_one_comes_first():
    other = dataclasses.replace(ASKED_FOR, number=3, held_out_accuracy=(0.6, 0.7, 0.85))
    found = rows(dataclasses.replace(TUNING, settings=(*TUNING.settings, other)))
    assert [row[0] for row in found] == ["2", "3", "0", "1"]


def test_without_classes_there_is_no_accuracy():
    settings = tuple(dataclasses.replace(each, held_out_accuracy=None) for each in TUNING.settings)
    seen = console()
    seen.print(tuning_table(dataclasses.replace(TUNING, settings=settings)))
    assert "accuracy" not in text_of(seen)
    assert "0.5000" in text_of(seen)


def test_how_to_train_it_alone_is_said():
    assert repeated(TUNING) == "* is the adapter, after 10 updates; alone: --adapter attention"
