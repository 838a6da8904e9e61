import dataclasses
import errno
import io
import json
import stat
from pathlib import Path

import numpy as np
import pytest

from coordinator.data import FieldNames
from coordinator.protocol.actions import Record
from coordinator.protocol.record import Recovery
from coordinator.runs.report import EpochReport, FillReport
from coordinator.runs.run_folder import (
    Checkpoint,
    RunFolder,
    Settings,
    append_whole,
    check_new,
)
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.errors import BadInputError, StorageError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import EpochSums
from edge_runtime.contract.plan import Owner, Plan, Stage, StageDevice
from edge_runtime.contract.structure import from_plain
from edge_runtime.contract.tensors import write_tensors
from export.adapter.graph import adapter_onnx

SETTINGS = Settings(
    bundle="/a/bundle",
    bundle_digest="ab",
    data_sha256="cd",
    eval_sha256="",
    fields=FieldNames(),
    task="classification",
    adapter="attention",
    adapter_layers=(0, 1, 2),
    adapter_heads=1,
    adapter_init="random",
    reduction=8,
    epochs=3,
    batch_size=16,
    learning_rate=1e-3,
    seed=0,
    cache_dtype="fp16",
)
OTHERS = {
    "bundle_digest": "ac",
    "data_sha256": "ce",
    "eval_sha256": "ef",
    "fields": FieldNames(text="sentence"),
    "task": "regression",
    "adapter": "mlp",
    "adapter_layers": (0, 2),
    "adapter_heads": 2,
    "adapter_init": "pruned",
    "reduction": 4,
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "seed": 1,
    "cache_dtype": "int8",
    "held_out": 0.1,
    "max_length": 7,
    "loss": "candidates",
    "weight_decay": 1.0,
    "schedule": "cosine",
    "keep": "best",
    "patience": 2,
    "adapter_seed": 5,
    "tune": 8,
}
CONFIG = AdapterConfig(hidden_size=8, reduction=2, layers=(0, 1), task="regression", num_outputs=1)


WEIGHTS = write_tensors(
    {
        name: np.ones(shape, np.float32)
        for name, shape in {
            "down.weight": (2, 8, 4),
            "down.bias": (2, 4),
            "gate": (1,),
            "blocks.0.qkv.weight": (4, 12),
            "blocks.0.out.weight": (4, 4),
            "blocks.0.fc1.weight": (4, 4),
            "blocks.0.fc1.bias": (4,),
            "blocks.0.fc2.weight": (4, 4),
            "up.weight": (4, 8),
            "head.weight": (8, 1),
            "head.bias": (1,),
        }.items()
    }
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", SETTINGS)


STEPS = 4
"""Updates of an epoch of the checkpoints here."""


def checkpoint(step: int) -> Checkpoint:
    """After so many updates, which may be amid an epoch."""
    epochs = tuple(
        EpochReport(epoch=i + 1, seconds=0.5, train_loss=1 / (i + 1), samples_per_second=2.0)
        for i in range(step // STEPS)
    )
    epoch, steps = (step - 1) // STEPS + 1, (step - 1) % STEPS + 1
    return Checkpoint(
        step=step,
        sums=EpochSums(epoch=epoch, steps=steps, samples=8 * steps, count=9, loss_sum=1 / step),
        epochs=epochs,
        eval_before={"accuracy": 0.25},
        state=write_tensors({"head.weight": np.full(3, step, np.float32)}),
        seconds=7.5,
        recoveries=(Recovery(term=2, reason="b was lost", device="b", seconds=1.5),),
        fill=FillReport(
            seconds=2.0,
            samples=5,
            tokens=9,
            computed=4,
            reused=1,
            eval_computed=0,
            eval_reused=0,
        ),
    )


def report_of(run: RunFolder):
    return json.loads((run.path / "report.json").read_text())


def test_a_new_run_says_what_it_was_started_with(run):
    assert run.settings() == SETTINGS
    assert RunFolder.resume(run.path, SETTINGS).settings() == SETTINGS


def test_a_run_takes_an_empty_folder_but_no_other(tmp_path):
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", SETTINGS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("full", "file"):
        with pytest.raises(BadInputError, match="exists and is not empty"):
            RunFolder.create(tmp_path / name, SETTINGS)
        with pytest.raises(BadInputError, match=r"choose another -o$"):
            check_new(tmp_path / name)
    assert (tmp_path / "full" / "mine.txt").read_text() == "precious"
    check_new(tmp_path / "absent")


def test_going_on_is_advised_where_a_run_stopped_only(run):
    with pytest.raises(BadInputError, match="or go on with --resume"):
        check_new(run.path)
    run.write_report({})
    with pytest.raises(BadInputError, match=r"choose another -o$"):
        check_new(run.path)


def test_a_full_disk_leaves_no_torn_line(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    append_whole(path, b"first\n")
    full = OSError(errno.ENOSPC, "No space left on device")

    class Full(io.FileIO):
        def write(self, data):
            if len(data) < 6:
                raise full
            return super().write(data[:3])

    with monkeypatch.context() as patched:
        opens = "coordinator.runs.run_folder.open"
        patched.setattr(opens, lambda file, *_, **__: Full(file, "ab"), raising=False)
        with pytest.raises(StorageError, match=r"events\.jsonl: cannot be written: No space"):
            append_whole(path, b"second\n")
    assert path.read_bytes() == b"first\n"


def test_a_name_that_no_folder_can_have_is_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="File name too long"):
        check_new(tmp_path / ("n" * 300))


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot be made"):
        RunFolder.create(tmp_path / "file" / "run", SETTINGS)


def test_a_folder_of_checkpoints_that_cannot_be_made_is_the_storages_fault(run):
    (run.path / "checkpoints").write_text("")
    with pytest.raises(StorageError, match="checkpoints: cannot be used as a folder: File exists"):
        run.write_checkpoint(checkpoint(1))


def test_every_setting_but_the_bundles_place_and_how_caches_lie_is_compared():
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == {*OTHERS, "bundle", "cache_quota_bytes", "encrypt_cache", "chats"}


@pytest.mark.parametrize("field", sorted(OTHERS))
def test_resuming_with_another_setting_names_it(run, field):
    changed = dataclasses.replace(SETTINGS, **{field: OTHERS[field]})
    files = {"bundle_digest": "bundle", "data_sha256": "--data", "eval_sha256": "--eval"}
    said = f"other .*{files[field]}" if field in files else f"{field} .*, not "
    with pytest.raises(BadInputError, match=f"was started with {said}"):
        RunFolder.resume(run.path, changed)


def test_of_renamed_fields_the_first_that_differs_is_named(run):
    changed = dataclasses.replace(SETTINGS, fields=FieldNames(label="intent"))
    with pytest.raises(BadInputError, match="with fields label label, not intent"):
        RunFolder.resume(run.path, changed)


def test_the_bundle_may_have_moved(run):
    resumed = RunFolder.resume(run.path, dataclasses.replace(SETTINGS, bundle="/elsewhere"))
    assert resumed.settings() == SETTINGS


def test_the_quota_is_kept_until_another_one_is_given(run):
    for given, kept in ((None, None), (5000, 5000), (None, 5000), (9000, 9000)):
        changed = dataclasses.replace(SETTINGS, cache_quota_bytes=given)
        assert RunFolder.resume(run.path, changed).settings().cache_quota_bytes == kept


def test_encryption_is_kept_and_may_begin_when_going_on(run):
    for given, kept in ((False, False), (True, True), (False, True)):
        changed = dataclasses.replace(SETTINGS, encrypt_cache=given)
        assert RunFolder.resume(run.path, changed).settings().encrypt_cache is kept


def test_what_json_cannot_hold_is_null(run):
    run.record(Record(event="epoch_finished", fields={"train_loss": float("nan"), "epoch": 1}))
    run.write_report({"epochs": [{"train_loss": float("inf")}], "eval": {"loss": -1.5}})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    event = json.loads((run.path / "events.jsonl").read_text(), parse_constant=refuse)
    report = json.loads((run.path / "report.json").read_text(), parse_constant=refuse)
    assert (event["train_loss"], event["epoch"]) == (None, 1)
    assert report == {"epochs": [{"train_loss": None}], "eval": {"loss": -1.5}}


def test_a_run_whose_loss_is_no_number_can_be_resumed(run):
    lost = EpochReport(epoch=1, seconds=1.0, train_loss=float("nan"), samples_per_second=1.0)
    run.write_checkpoint(dataclasses.replace(checkpoint(1), epochs=(lost,)))
    assert np.isnan(run.last_checkpoint().epochs[0].train_loss)


def test_a_finished_run_is_not_resumed(run):
    run.write_report({"task": "classification"})
    with pytest.raises(BadInputError, match="is finished"):
        RunFolder.resume(run.path, SETTINGS)
    assert report_of(run) == {"task": "classification"}


def test_what_is_no_run_is_said_to_be_none(tmp_path):
    with pytest.raises(BadInputError, match=r"run\.json: is missing"):
        RunFolder.resume(tmp_path / "absent", SETTINGS)
    with pytest.raises(BadInputError, match=r"adapter_config\.json: is missing"):
        RunFolder(tmp_path).read_adapter()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        BadInputError, match=r"adapter_config\.json: is missing; give the -o folder"
    ):
        RunFolder(tmp_path / "file").read_adapter()


def test_an_unfinished_run_is_said_to_be_one(run):
    with pytest.raises(BadInputError, match=r"its training is not finished; give .* --resume"):
        run.read_adapter()


def test_a_run_from_before_chats_were_told_apart_is_read_and_gone_on_with(run):
    content = json.loads((run.path / "run.json").read_text())
    del content["chats"]
    (run.path / "run.json").write_text(json.dumps(content))
    assert not run.settings().chats
    RunFolder.resume(run.path, dataclasses.replace(SETTINGS, chats=True))


@pytest.mark.parametrize("text", ["{", "[]", '{"bundle": 3}', '{"more": 1}'])
def test_damaged_settings_are_bad_input(run, text):
    (run.path / "run.json").write_text(text)
    with pytest.raises(BadInputError, match=r"run\.json"):
        run.settings()


def test_an_event_is_one_object_a_line_with_time_and_name(run):
    run.record(Record(event="device_joined", fields={"device": "jetson-nano-1", "pid": 3}))
    run.record(Record(event="device_lost", fields={"reason": "two\nlines, ünïcode"}))
    lines = (run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first.items() >= {"event": "device_joined", "device": "jetson-nano-1", "pid": 3}.items()
    assert second["reason"] == "two\nlines, ünïcode"
    assert 1.7e9 < first["time"] <= second["time"]


def test_the_group_that_trained_last_is_read_from_the_events(run):
    assert run.last_group() == ""
    for name in ("s/1", "s/3"):
        run.record(Record(event="group_formed", fields={"run": name, "trainers": ["a"]}))
        run.record(Record(event="device_lost", fields={"device": "a", "reason": "silent"}))
    assert run.last_group() == "s/3"
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"time": 1, "event": "group_formed", "run": "s/')  # torn as the power failed
    assert RunFolder(run.path).last_group() == "s/3"


def test_the_plan_is_written_as_it_is(run):
    plan = Plan(
        stages=(Stage(first=0, last=2, devices=(StageDevice(device=DeviceId("a")),)),),
        owners=(Owner(device=DeviceId("a"), shards=(0,)),),
        num_shards=1,
        micro_batch_size=4,
    )
    run.write_plan(plan)
    assert from_plain(Plan, json.loads((run.path / "plan.json").read_text())) == plan


def test_the_adapter_comes_back_as_it_was(run):
    run.write_adapter(CONFIG, WEIGHTS)
    assert run.read_adapter() == (CONFIG, WEIGHTS)
    (run.path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInputError, match="cannot be read"):
        run.read_adapter()


def test_the_adapter_lies_beside_its_onnx_form(run):
    run.write_adapter(CONFIG, WEIGHTS)
    graph = (run.path / "adapter" / "adapter.onnx").read_bytes()
    assert graph == adapter_onnx(CONFIG, WEIGHTS)


def test_files_are_private_and_leave_no_pieces(run):
    run.write_report({})
    run.write_adapter(CONFIG, WEIGHTS)
    run.write_checkpoint(checkpoint(1))
    run.record(Record(event="device_joined", fields={}))
    for path in run.path.rglob("*"):
        assert not path.name.startswith(".")
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_write_that_fails_leaves_the_old_file(run, monkeypatch):
    run.write_report({"old": 1})

    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(BadInputError, match="No space left"):
        run.write_report({"new": 1})
    assert report_of(run) == {"old": 1}
