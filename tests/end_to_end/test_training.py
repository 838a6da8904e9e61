"""A model is fine-tuned by device processes, and the result is used."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import BundleMaker, TinyBundleMaker
from tests.end_to_end.conftest import lines
from tests.processes import (
    events,
    finish,
    pacplus,
    start,
    succeed,
    wait_for_event,
    write_jsonl,
)

WEIGHTS = "adapter/adapter_model.safetensors"
REPORT_FIELDS = {
    *("task", "model", "bundle_digest", "seed", "labels", "dilation", "plan", "total_seconds"),
    *("fill", "epochs", "eval", "cache", "devices", "recoveries"),
}


@pytest.fixture
def bundle(tiny_bundle: TinyBundleMaker) -> Path:
    return tiny_bundle("bert", "int8").path


def train(home: Path, bundle: Path, data: Path, run: Path, *more: str) -> dict:
    return succeed(
        home,
        *("train", bundle, "--data", data / "train.jsonl", "--eval", data / "eval.jsonl"),
        *("-o", run, "--epochs", "5", "--batch-size", "8", "--reduction", "1"),
        *("--learning-rate", "0.003", "--json", *more),
    ).report


def test_this_machine_alone_trains_evaluates_and_predicts(
    home: Path, bundle: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    report = train(home, bundle, data, run)

    assert report.keys() >= REPORT_FIELDS
    assert report == json.loads((run / "report.json").read_text())
    assert report["eval"]["after"]["accuracy"] > 0.9 > report["eval"]["before"]["accuracy"]
    assert report["fill"]["computed"] == 300
    assert report["fill"]["eval_computed"] == 60
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2, 3, 4, 5]
    losses = [epoch["train_loss"] for epoch in report["epochs"]]
    assert losses == sorted(losses, reverse=True)
    (device,) = report["devices"]
    assert set(device["cpu_seconds"]) == {"start", "profile", "fill", "eval", "train"}
    assert device["peak_rss_bytes"] > 50e6

    names = [event["event"] for event in events(run)]
    wanted = ["coordinator_listening", "device_joined", "plan_made", "fill_started"]
    epoch = ["steps_applied", "epoch_finished", "checkpoint", "epoch_evaluated"]
    wanted += ["fill_finished", "group_formed", *epoch * 5, "finished"]
    assert names == wanted
    assert all(event["time"] > 1.7e9 for event in events(run))
    assert json.loads((run / "plan.json").read_text()) == report["plan"]
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "PARALLEL_ADAPTER"
    assert config["labels"] == ["bad", "good", "stop"]
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert sum(array.size for array in weights.values()) == report["parameters"]

    found = succeed(home, "evaluate", run, "--data", data / "eval.jsonl", "--json").report
    assert found["accuracy"] == pytest.approx(report["eval"]["after"]["accuracy"])
    assert found["loss"] == pytest.approx(report["eval"]["after"]["loss"], rel=1e-5)
    said = succeed(home, "predict", run, "--text", "the cat is good", "--json").report
    (prediction,) = said["predictions"]
    assert prediction["label"] == "good"
    assert sum(prediction["scores"].values()) == pytest.approx(1)


def write_plan(path: Path, stages: dict[str, tuple[int, int]], owners: dict[str, int]) -> Path:
    """A plan for ``--plan``: stages of one device each, and the number of shards by device."""
    numbers = iter(range(sum(owners.values())))
    plan = {
        "stages": [
            {"first": first, "last": last, "devices": [{"device": device}]}
            for device, (first, last) in stages.items()
        ],
        "owners": [
            {"device": device, "shards": [next(numbers) for _ in range(count)]}
            for device, count in owners.items()
        ],
        "num_shards": sum(owners.values()),
        "micro_batch_size": 16,
    }
    path.write_text(json.dumps(plan))
    return path


@pytest.fixture(scope="module")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines for the real model: a tiny random one is chaotic enough to blow up the last bit."""
    examples = Path(__file__).parents[2] / "examples"
    folder = tmp_path_factory.mktemp("real")
    for name, count in (("train", 320), ("eval", 100)):
        every = (examples / f"assistant-{name}.jsonl").read_text().splitlines(keepends=True)
        chosen = every[:: len(every) // count][:count]
        (folder / f"{name}.jsonl").write_text("".join(chosen))
    return folder


def learn(home: Path, minilm_bundle: BundleMaker, data: Path, run: Path, *more: str) -> dict:
    return succeed(
        *(home, "train", minilm_bundle("int8").path, "--data", data / "train.jsonl"),
        *("--eval", data / "eval.jsonl", "-o", run, "--epochs", "2", "--json"),
        *more,
    ).report


def check_same_result(one: dict, other: dict) -> None:
    for first, second in zip(one["epochs"], other["epochs"], strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-3)
    accuracy = pytest.approx(one["eval"]["after"]["accuracy"], abs=0.005)
    assert other["eval"]["after"]["accuracy"] == accuracy


def test_several_trainers_and_one_without_room_learn_what_one_learns(
    home: Path, minilm_bundle: BundleMaker, real_data: Path, tmp_path: Path
) -> None:
    without_room = learn(home, minilm_bundle, real_data, tmp_path / "small", "--cache-quota", "5M")
    assert without_room["cache"]["bytes"] <= 5e6 < 320 * without_room["cache"]["bytes_per_sample"]
    alone = learn(home, minilm_bundle, real_data, tmp_path / "alone")
    check_same_result(alone, without_room)
    plan = write_plan(
        tmp_path / "plan.json",
        {"laptop-1": (0, 3), "laptop-2": (3, 7)},
        {"laptop-1": 6, "laptop-2": 5, "laptop-3": 5},
    )
    more = ("--emulate", "laptop,laptop,laptop", "--plan", str(plan))
    together = learn(home, minilm_bundle, real_data, tmp_path / "together", *more)

    trainers = [device for device in together["devices"] if device["shards"]]
    assert [device["shards"] for device in trainers] == [6, 5, 5]
    assert all(device["sent_bytes"] > 1e6 for device in trainers)
    check_same_result(alone, together)


def test_stages_go_to_devices_over_the_wire_and_nothing_else_does(
    home: Path, bundle: Path, data: Path, tmp_path: Path
) -> None:
    """Two backbone-only devices and a trainer; each gets the weights of its own blocks."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    plan = write_plan(
        tmp_path / "plan.json",
        {"pixel-8-1": (0, 2), "pixel-8-2": (2, len(manifest["blocks"]))},
        {"raspberry-pi-5-1": 8},
    )
    report = train(
        *(home, bundle, data, tmp_path / "run", "--plan", str(plan), "--emulate"),
        "pixel-8:memory=300M,pixel-8:memory=300M,raspberry-pi-5:memory=1G",
    )
    sizes = {file["path"]: file["bytes"] for file in manifest["files"]}
    served = [device for device in report["devices"] if device["blocks"]]
    assert sorted(block for device in served for block in range(*device["blocks"])) == list(
        range(len(manifest["blocks"]))
    )
    for device in served:
        first, last = device["blocks"]
        paths = {path for block in manifest["blocks"][first:last] for path in block["weights"]}
        stored = home / "emulated" / device["id"] / "weights"
        # Every device times a layer before the plan is made, alone and with the next one.
        paths |= {path for block in manifest["blocks"][1:3] for path in block["weights"]}
        made_there = set(stored.glob("*.uint8.bin"))  # where uint8 x int8 saturates
        received = {path.name for path in set(stored.glob("*.bin")) - made_there}
        assert {Path(path).name for path in paths} == received
        assert device["received_weight_bytes"] == sum(sizes[path] for path in paths)
        assert device["received_bytes"] > device["received_weight_bytes"]
    pixels = [device for device in report["devices"] if device["profile"] == "pixel-8"]
    assert all(device["roles"] == ["backbone"] for device in pixels)
    assert all(device["shards"] == 0 for device in pixels)


def test_what_was_computed_once_is_never_computed_again(
    home: Path, bundle: Path, data: Path, tmp_path: Path
) -> None:
    cluster = ("--emulate", "laptop,laptop")
    first = train(home, bundle, data, tmp_path / "1", *cluster)
    again = train(home, bundle, data, tmp_path / "2", *cluster, "--seed", "7")
    assert first["fill"]["computed"] == 300
    assert (again["fill"]["computed"], again["fill"]["reused"]) == (0, 300)
    assert (again["fill"]["eval_computed"], again["fill"]["eval_reused"]) == (0, 60)

    more = tmp_path / "more"
    more.mkdir()
    known = (data / "train.jsonl").read_text()
    seen = {json.loads(line)["text"] for line in known.splitlines()}
    seen |= {json.loads(line)["text"] for line in (data / "eval.jsonl").read_text().splitlines()}
    new = [line for line in lines(500, 2) if line["text"] not in seen][:40]
    write_jsonl(more / "train.jsonl", [*map(json.loads, known.splitlines()), *new])
    (more / "eval.jsonl").write_bytes((data / "eval.jsonl").read_bytes())
    added = train(home, bundle, more, tmp_path / "3", *cluster)
    assert (added["fill"]["computed"], added["fill"]["reused"]) == (40, 300)

    numbers = tmp_path / "numbers"
    numbers.mkdir()
    for name in ("train.jsonl", "eval.jsonl"):
        texts = [json.loads(line)["text"] for line in (more / name).read_text().splitlines()]
        write_jsonl(numbers / name, [{"text": t, "label": float(len(t))} for t in texts])
    report = train(home, bundle, numbers, tmp_path / "4", *cluster, "--task", "regression")
    assert report["fill"]["computed"] == report["fill"]["eval_computed"] == 0
    assert report["eval"]["after"]["pearson"] > 0.8


def test_plan_measures_and_trains_nothing(home: Path, bundle: Path, data: Path) -> None:
    ended = succeed(
        *(home, "plan", bundle, "--data", data / "train.jsonl", "--emulate", "laptop,pixel-8"),
        "--json",
    )
    assert ended.report["predicted"]["total_seconds"] > 0
    assert {owner["device"] for owner in ended.report["owners"]} == {"laptop-1"}
    assert not (home / "emulated" / "laptop-1" / "cache").exists()


def test_a_cluster_that_cannot_hold_the_model_is_told_what_is_missing(
    home: Path, bundle: Path, data: Path, tmp_path: Path
) -> None:
    ended = pacplus(
        *(home, "train", bundle, "--data", data / "train.jsonl", "-o", tmp_path / "run"),
        *("--emulate", "pixel-8:memory=200M"),
    )
    assert ended.code == 4
    assert "none of pixel-8-1 can train" in ended.err.strip().splitlines()[-1]


@pytest.fixture
def language(tiny_bundle: TinyBundleMaker, tmp_path: Path) -> list[str]:
    bundle = tiny_bundle("llama", "int8").path
    texts = [each["text"].split() for each in lines(600, 3)]
    rows = [{"prompt": " ".join(each[:2]), "completion": " ".join(each[2:])} for each in texts]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    evaluation = write_jsonl(tmp_path / "eval.jsonl", rows[:40])
    return [
        *("train", str(bundle), "--data", str(data), "--eval", str(evaluation), "--json"),
        *("--epochs", "4", "--batch-size", "8", "--reduction", "2"),
        *("--learning-rate", "0.003"),
    ]


@pytest.mark.slow
def test_the_loss_is_that_of_the_whole_vocabulary_on_one_device_and_on_two(
    language: list[str], home: Path, tmp_path: Path
) -> None:
    found = {
        name: succeed(home, *language, "-o", tmp_path / name, *more).report
        for name, more in {
            "alone": (),
            "two": ("--emulate", "laptop,laptop"),
            "exact": ("--loss", "exact"),
        }.items()
    }
    assert [report["loss"] for report in found.values()] == ["candidates", "candidates", "exact"]
    losses = {name: report["eval"]["after"]["loss"] for name, report in found.items()}
    assert losses["exact"] < found["exact"]["eval"]["before"]["loss"] - 0.1
    np.testing.assert_allclose(losses["two"], losses["alone"], rtol=2e-3)
    np.testing.assert_allclose(losses["alone"], losses["exact"], rtol=5e-3)


@pytest.mark.slow
def test_a_language_models_run_that_was_stopped_ends_as_one_that_was_not(
    language: list[str], home: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    succeed(home, *language, "-o", whole)
    process = start(home, *language, "-o", str(stopped))
    wait_for_event(process, stopped, lambda event: event["event"] == "checkpoint")
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    if ended.code:  # it may have been quicker
        succeed(home, *language, "-o", stopped, "--resume")
    assert (stopped / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
