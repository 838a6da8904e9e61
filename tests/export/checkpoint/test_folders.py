"""A folder that is no model is named as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.load import find_checkpoint

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


def refused(folder, message):
    with pytest.raises(BadInputError, match=message) as caught:
        find_checkpoint(str(folder), Path("scratch"))
    assert "\n" not in str(caught.value)


def test_a_gguf_file_that_is_not_there_is_no_folder_and_not_on_the_hub():
    refused("models/tiny.gguf", r"^models/tiny\.gguf: no such file$")


def test_an_empty_folder_is_empty(tmp_path):
    refused(tmp_path, r"is empty, it has no config\.json")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md"], r"is no model, it has no config\.json"),
        (["checkpoint-90/config.json", "checkpoint-100/config.json"], "give .*/checkpoint-100"),
        (["q4.gguf", "README.md"], r"give .*/q4\.gguf"),
        (["__0_0.distcp"], "state of a training run"),
        (["global_step10/mp_rank_00_model_states.pt"], "zero_to_fp32"),
    ],
)
def test_a_folder_without_configuration_says_where_one_is(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_pointer_of_git_lfs_is_found_whatever_it_points_to(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text(POINTER)
    refused(tmp_path, f"{name}: is a Git LFS pointer.*git -C {tmp_path} lfs pull")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_settings_that_are_damaged_are_not_passed_over(tmp_path, name, text, message):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / name).write_text(text)
    refused(tmp_path, f"{name}: .*{message}")


def test_what_transformers_refuses_of_a_configuration_is_one_line(tiny_model, tmp_path):
    fields = json.loads((tiny_model("bert") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"hidden_size": "many"}))
    (tmp_path / "model.safetensors").symlink_to(tiny_model("bert") / "model.safetensors")
    refused(tmp_path, r"config\.json: transformers refuses it: .*hidden_size")
