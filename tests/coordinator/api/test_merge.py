"""``pacplus merge``: from a run's folder to a model, and what can be wrong with either."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import onnxruntime
import pytest

from coordinator import merge
from coordinator.cli import main as cli
from coordinator.runs.run_folder import RunFolder
from edge_runtime.contract.errors import BadInputError
from edge_runtime.inference.session import numerics
from export.adapter.merge import WHERE_FAST
from export.partition.stages import Bundle
from tests.conftest import TinyBundleMaker
from tests.runs import LABELS, finished_run, unfinished_run

FORM_NOTES = [WHERE_FAST] if numerics().kernel == "fast" else []
"""Of an int8 bundle; a processor that saturates has nothing to note."""


@pytest.fixture(scope="module")
def bundle(tiny_bundle: TinyBundleMaker) -> Bundle:
    return tiny_bundle("bert", "int8")


@pytest.fixture
def run(bundle: Bundle, tmp_path: Path) -> Path:
    return finished_run(bundle, tmp_path / "run")


def test_the_command_writes_a_model_and_says_how_to_call_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "new folder" / "model.onnx"
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", str(run), "-o", str(model), "--json"])
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "path": str(model),
        "data": None,
        "bytes": model.stat().st_size,
        "inputs": ["input_ids", "token_type_ids", "attention_mask"],
        "eos_token_ids": [],
        "notes": FORM_NOTES,
        "output": "logits",
    }
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == said["inputs"]
    labels = session.get_modelmeta().custom_metadata_map["labels"]
    assert json.loads(labels) == list(LABELS)

    with pytest.raises(SystemExit):
        cli.main(["merge", str(run), "-o", str(tmp_path / "other.onnx")])
    assert "attention_mask -> logits" in capsys.readouterr().out


def test_progress_is_told(run: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    merge(run, tmp_path / "model.onnx", progress=steps.append)
    assert steps == ["checking the bundle", "joining the graphs", "writing the weights"]


def test_what_exists_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_text("mine")
    with pytest.raises(BadInputError, match=r"model\.onnx: exists; choose another -o"):
        merge(run, model)
    assert model.read_text() == "mine"


def test_a_run_that_has_not_finished_is_bad_input(bundle: Bundle, tmp_path: Path) -> None:
    unfinished_run(bundle, tmp_path / "run")
    with pytest.raises(BadInputError, match="its training is not finished"):
        merge(tmp_path / "run", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_bundle_that_has_moved_is_asked_for(run: Path, bundle: Bundle, tmp_path: Path) -> None:
    folder = RunFolder(run)
    gone = dataclasses.replace(folder.settings(), bundle=str(tmp_path / "gone"))
    folder._write_json("run.json", dataclasses.asdict(gone))
    with pytest.raises(BadInputError, match="not there any more; say with --bundle where it is"):
        merge(run, tmp_path / "model.onnx")
    moved = shutil.copytree(bundle.path, tmp_path / "moved")
    merge(run, tmp_path / "model.onnx", bundle=moved)
    assert (tmp_path / "model.onnx").stat().st_size > 0


def test_another_bundle_is_bad_input(
    run: Path, tiny_bundle: TinyBundleMaker, tmp_path: Path
) -> None:
    other = tiny_bundle("bert", "none")
    with pytest.raises(BadInputError, match="is not the bundle that"):
        merge(run, tmp_path / "model.onnx", bundle=other.path)


def test_a_run_with_an_int8_cache_says_how_far_its_model_is_from_evaluate(
    run: Path, tmp_path: Path
) -> None:
    folder = RunFolder(run)
    for dtype in ("fp16", "int8"):
        settings = dataclasses.replace(folder.settings(), cache_dtype=dtype)
        folder._write_json("run.json", dataclasses.asdict(settings))
        merged = merge(run, tmp_path / f"{dtype}.onnx")
        assert len(merged.notes) == len(FORM_NOTES) + (dtype == "int8")
    note = merged.notes[-1]
    assert re.search(r"its logits differ by up to 0\.\d+ from those of evaluate and predict", note)
