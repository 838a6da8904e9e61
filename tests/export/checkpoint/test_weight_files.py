"""Weight files are judged by their headers: whole, of one model, and those of the index."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.weight_files import backbone_elements, stored_tensors

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def write(path, *names):
    save_file({name: np.zeros((2, 3), np.float32) for name in names}, path)


def write_index(folder, **files):
    folder.joinpath(INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.fixture
def sharded(tmp_path):
    write(tmp_path / FIRST, "a")
    write(tmp_path / SECOND, "b")
    write_index(tmp_path, a=FIRST, b=SECOND)
    return tmp_path


def refused(folder, message):
    with pytest.raises(BadInputError, match=message) as caught:
        stored_tensors(folder, "LlamaForCausalLM")
    assert "\n" not in str(caught.value)


def test_whole_shards_are_read(sharded):
    found = stored_tensors(sharded)
    assert {name: tensor.file.name for name, tensor in found.items()} == {"a": FIRST, "b": SECOND}
    assert (found["a"].dtype, found["a"].shape) == ("F32", (2, 3))


def test_an_index_of_the_single_file_is_fine(tmp_path):
    write(tmp_path / "model.safetensors", "a")
    write_index(tmp_path, a="model.safetensors")
    assert list(stored_tensors(tmp_path)) == ["a"]


def test_a_missing_shard_is_named(sharded):
    (sharded / SECOND).unlink()
    refused(sharded, f"1 of 2 shards .* are missing, {SECOND} first; download")


def test_a_stale_index_beside_a_whole_file_is_named(sharded):
    (sharded / FIRST).unlink()
    write(sharded / "model.safetensors", "a", "b")
    refused(sharded, f"names shards that are not, {FIRST} first; remove {INDEX}")


def test_a_single_file_and_shards_are_two_models(sharded):
    write(sharded / "model.safetensors", "a", "b")
    refused(sharded, "model.safetensors and shards, too, .*remove one of the two")


def test_a_single_file_and_shards_without_index_are_two_models(tmp_path):
    write(tmp_path / "model.safetensors", "a")
    write(tmp_path / FIRST, "a")
    refused(tmp_path, "and shards, too")


def test_shards_of_another_save_are_named(sharded):
    write(sharded / "model-00003-of-00003.safetensors", "c")
    refused(sharded, r"model-00003-of-00003.safetensors is not named by .*remove it")


def test_shards_without_their_index_say_what_is_missing(sharded):
    (sharded / INDEX).unlink()
    refused(sharded, f"has 2 shards and no {INDEX}; download")


def test_a_weight_that_the_index_promises_is_missed(sharded):
    write(sharded / SECOND, "c")
    refused(sharded, f"b should be in {SECOND} and is not")


def test_a_weight_that_the_index_does_not_name_is_named(sharded):
    write(sharded / SECOND, "b", "c")
    refused(sharded, "does not name c")


def test_a_weight_in_two_shards_is_named(sharded):
    write(sharded / SECOND, "a", "b")
    refused(sharded, f"a is in {FIRST}, too")


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_damaged_index_is_named(sharded, text):
    (sharded / INDEX).write_text(text)
    refused(sharded, f"{INDEX}: .*download")


@pytest.mark.parametrize(("change", "message"), [(slice(-3), "is truncated"), (slice(5), "header")])
def test_a_file_that_was_cut_off_is_named(tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    write(path, "a")
    path.write_bytes(path.read_bytes()[change])
    refused(tmp_path, f"model.safetensors: .*{message}.*download")


def test_a_file_with_something_behind_it_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, "a")
    path.write_bytes(path.read_bytes() + b"more")
    refused(tmp_path, "is damaged, it has")


def test_a_pointer_of_git_lfs_is_named_with_the_command(sharded):
    (sharded / SECOND).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(sharded, f"{SECOND}: is a Git LFS pointer.* lfs pull")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_not_read_and_can_be_converted(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    refused(tmp_path, f"{name}, a pickle.*import LlamaForCausalLM as M")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json"], "model.safetensors is missing; download"),
        (["optimizer.bin", "config.json"], "model.safetensors is missing"),
        (["global_step500", "zero_to_fp32.py", "config.json"], "zero_to_fp32.py .*OUTPUT"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "state of a training run"),
        (
            ["pytorch_model_fsdp_0", "config.json"],
            "accelerate merge-weights .*pytorch_model_fsdp_0",
        ),
        (["tf_model.h5"], "tf_model.h5, which is not read"),
        (["tiny.gguf"], "GGUF file; give .*tiny.gguf"),
    ],
)
def test_a_folder_without_safetensors_says_what_it_holds(tmp_path, names, message):
    for name in names:
        tmp_path.joinpath(name).touch()
    refused(tmp_path, message)


def test_files_of_the_optimizer_beside_a_model_are_left_alone(tmp_path):
    write(tmp_path / "model.safetensors", "a")
    (tmp_path / "optimizer.pt").touch()
    assert list(stored_tensors(tmp_path)) == ["a"]


def test_heads_and_decoders_do_not_count_as_an_encoder(tmp_path):
    write(tmp_path / "model.safetensors", "lm_head.weight", "model.decoder.x", "model.encoder.x")
    found = stored_tensors(tmp_path)
    assert backbone_elements(found, encoder_only=True) == 6
    assert backbone_elements(found, encoder_only=False) == 12
