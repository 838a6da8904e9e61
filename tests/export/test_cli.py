from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from edge_runtime.contract.errors import MissingExtraError
from export.cli import export_command, inspect_command, summary
from tests.models import VOCAB_SIZE, tiny_model_dir


def app() -> typer.Typer:
    commands = typer.Typer()
    commands.command("export")(export_command)
    commands.command("inspect")(inspect_command)
    return commands


def test_export_prints_parity_and_inspect_prints_the_same_object(tmp_path, tiny_model, traced_once):
    output = tmp_path / "bundle"
    runner = CliRunner()
    made = runner.invoke(
        app(),
        ["export", str(tiny_model("bert")), "-o", str(output), "--quantize", "int8", "--json"],
        catch_exceptions=False,
    )
    shown = runner.invoke(app(), ["inspect", str(output), "--json"], catch_exceptions=False)
    assert made.exit_code == shown.exit_code == 0
    fields = json.loads(made.stdout)
    assert fields == json.loads(shown.stdout)
    assert fields["quantization"] == "int8"
    assert 0 < fields["parity"]["worst"] <= fields["parity"]["limit"] == 0.12
    assert len(fields["blocks"]) == 4


def test_inspect_shows_bytes_and_flops_of_every_block(minilm_bundle):
    bundle = minilm_bundle("int8")
    result = CliRunner().invoke(app(), ["inspect", str(bundle.path)], catch_exceptions=False)
    assert result.exit_code == 0
    for row in (
        "embeddings │ encoder │      12.64",
        "layer.5    │ encoder │       1.82",
        "parity with PyTorch",
        bundle.manifest.notes[0],
    ):
        assert row in result.stdout
    # 4 d^2 for attention and 8 d^2 for the feed-forward part, two operations each.
    layer = summary(bundle.manifest)["blocks"][3]
    assert layer["flops_per_token"] == pytest.approx(2 * 12 * 384**2, rel=0.01)


def test_inspect_shows_streams_head_and_what_blocks_share(tiny_bundle):
    bundle = tiny_bundle("t5", "none")
    shown = ["inspect", str(bundle.path)]
    result = CliRunner().invoke(app(), shown, catch_exceptions=False)
    ends = "a text ends at: 1 ([UNK])"
    for text in ("encoder.layer.1", "decoder.layer.1", "shared by 2 blocks", "head: 0.01 MB", ends):
        assert text in result.stdout
    result = CliRunner().invoke(app(), [*shown, "--json"], catch_exceptions=False)
    fields = json.loads(result.stdout)
    assert [block["stream"] for block in fields["blocks"]] == ["encoder"] * 3 + ["decoder"] * 3
    assert fields["head_bytes"] > VOCAB_SIZE * 32 * 4
    (shared,) = fields["shared"].values()
    assert shared == VOCAB_SIZE * 32 * 4


@pytest.mark.parametrize("command", ["export", "inspect"])
def test_help_has_an_example(command):
    result = CliRunner().invoke(app(), [command, "--help"])
    assert f"Example: pacplus {command}" in result.stdout


def test_without_torch_export_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("export.")]:
        if name != "export.partition.stages":
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"pacplus\[export\]"):
        export_command("anything", tmp_path / "out")


def test_a_tiny_model_has_a_tokenizer_that_works(tmp_path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model_dir(tmp_path, "bert") / "tokenizer.json"))
    assert tokenizer.encode("the cat was good").tokens[1:3] == ["the", "cat"]


def test_the_commands_are_listed_without_importing_what_they_use():
    heavy = {"numpy", "onnx_ir", "torch", "rich.table"}
    code = f"import sys, export.cli; print(sorted({heavy!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
