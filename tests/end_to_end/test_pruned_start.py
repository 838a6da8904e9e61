"""An adapter begins as the pruned backbone that the export wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file
from typer.testing import CliRunner

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import prepare
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.manifest import Manifest
from export.cli import export_command
from tests.end_to_end.conftest import lines
from tests.processes import succeed, write_jsonl


def export(*arguments: str | Path) -> int:
    app = typer.Typer()
    app.command()(export_command)
    return CliRunner().invoke(app, [str(item) for item in arguments]).exit_code


def test_training_starts_from_the_pruned_layers_and_refuses_other_shapes(
    home: Path, tiny_model: Callable[[str], Path], traced_once: None, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(line["text"] for line in lines(40, 2)), "utf-8")
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    options = ("--adapter-init", "pruned", "--adapter-reduction", "2", "--calibration", text)
    assert export(tiny_model("bert"), "-o", bundle, *options) == 0
    manifest = Manifest.from_json((bundle / "manifest.json").read_text("utf-8"))
    assert manifest.adapter_init == "adapter_init.safetensors"
    data = write_jsonl(tmp_path / "train.jsonl", lines(16, 1))

    succeed(
        home,
        *("train", bundle, "--data", data, "-o", run, "--epochs", "1", "--reduction", "2"),
        *("--learning-rate", "1e-6", "--adapter-init", "pruned", "--json"),
    )
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["initialization"] == "pruned"
    trained = load_file(run / "adapter" / "adapter_model.safetensors")
    for name, start in load_file(bundle / manifest.adapter_init).items():
        assert np.allclose(trained[name], start, atol=1e-4), name

    for choice, mend in (
        ({"reduction": 4}, "pruned --adapter-reduction 4 --adapter-heads 1"),
        ({"reduction": 2, "num_heads": 2}, "pruned --adapter-reduction 2 --adapter-heads 2"),
        ({"reduction": 2, "layers": "every:2"}, "random"),
        ({"reduction": 2, "kind": "mlp"}, "random"),
    ):
        pruned = AdapterChoice(initialization="pruned", **choice)
        with pytest.raises(BadInputError, match=f"--reduction 2 --adapter-heads 1; .*{mend}$"):
            prepare(bundle, data, None, None, pruned, TrainingOptions(), None)


def test_calibration_without_pruning_is_a_wrong_option(tmp_path: Path) -> None:
    assert export("absent", "-o", tmp_path / "bundle", "--calibration", tmp_path) != 0
    assert not (tmp_path / "bundle").exists()
