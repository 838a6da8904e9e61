"""An adapter is merged by peft where peft is, and refused with what to type where it is not."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_runtime.contract.errors import BadInputError
from export.checkpoint.load import find_checkpoint, load_model

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
QUERY = "model.layers.0.self_attn.q_proj.weight"
SETTINGS = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
}


def write_adapter(folder, base, **changes):
    """LoRA of one map, twice the product of two matrices of ones: everywhere 8 more."""
    folder.mkdir(exist_ok=True)
    fields = SETTINGS | {"base_model_name_or_path": base} | changes
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    matrices = {
        f"{PREFIX}.lora_A.weight": torch.ones(4, 32),
        f"{PREFIX}.lora_B.weight": torch.ones(32, 4),
    }
    save_file(matrices, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def adapter(tiny_model, tmp_path):
    return write_adapter(tmp_path / "adapter", str(tiny_model("llama")))


@pytest.fixture
def no_peft(monkeypatch):
    find = importlib.util.find_spec

    def find_others(name, *rest):
        return None if name == "peft" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)


@pytest.fixture
def peft(monkeypatch):
    """The real peft, or as much of it as one LoRA needs."""
    if importlib.util.find_spec("peft") is not None:
        return
    module = ModuleType("peft")
    module.__spec__ = ModuleSpec("peft", None)
    module.PeftModel = FakePeftModel
    module.get_peft_model_state_dict = lambda wrapped: wrapped.matrices
    monkeypatch.setitem(sys.modules, "peft", module)


class FakePeftModel(torch.nn.Module):
    @classmethod
    def from_pretrained(cls, model, folder):
        wrapped = cls()
        wrapped.model, wrapped.config = model, model.config
        wrapped.matrices = load_file(Path(folder) / "adapter_model.safetensors")
        settings = json.loads((Path(folder) / "adapter_config.json").read_text())
        first, second = (wrapped.matrices[f"{PREFIX}.lora_{each}.weight"] for each in "AB")
        with torch.no_grad():
            scale = settings["lora_alpha"] / settings["r"]
            model.get_parameter(QUERY).add_(scale * second @ first)
        return wrapped

    def forward(self, **fields):
        return self.model(**fields)

    def merge_and_unload(self):
        return self.model


def find(folder, scratch):
    scratch.mkdir(exist_ok=True)
    return find_checkpoint(str(folder), scratch)


def refused(folder, tmp_path, message):
    with pytest.raises(BadInputError, match=message) as caught:
        find(folder, tmp_path / "scratch")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["alone", "beside"])
def test_an_adapter_is_merged_into_its_base(peft, place, adapter, tiny_model, tmp_path):
    if place == "beside":
        for path in tiny_model("llama").iterdir():
            shutil.copy(path, adapter)
    template = "additional_chat_templates/tool_use.jinja"
    (adapter / template).parent.mkdir()
    (adapter / template).write_text("tools")
    shutil.copy(tiny_model("llama") / "tokenizer.json", adapter)
    checkpoint = find(adapter, tmp_path / "scratch")
    assert checkpoint.notes == ("adapter adapter (LORA) merged into the weights",)
    assert checkpoint.model_id == "adapter"
    assert (checkpoint.path / "tokenizer.json").is_file()
    assert (checkpoint.path / template).read_text() == "tools"
    model = load_model(checkpoint, "causal-lm").language_model
    before = load_file(tiny_model("llama") / "model.safetensors")[QUERY]
    torch.testing.assert_close(model.get_parameter(QUERY), before + 8)


def test_the_base_of_an_adapter_is_checked_like_any_model(peft, tiny_model, tmp_path):
    base = Path(shutil.copytree(tiny_model("llama"), tmp_path / "base"))
    fields = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(fields | {"logits_scaling": 8.0}))
    adapter = write_adapter(tmp_path / "adapter", "../base")
    refused(adapter, tmp_path, "logits_scaling is 8.0")


def test_an_adapter_of_which_peft_uses_a_part_is_refused(peft, adapter, tmp_path):
    file = adapter / "adapter_model.safetensors"
    surplus = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    save_file(load_file(file) | {surplus: torch.ones(4, 32)}, file)
    if importlib.util.find_spec("peft") is None or not hasattr(sys.modules["peft"], "__file__"):
        used = load_file(file)
        used.pop(surplus)
        sys.modules["peft"].get_peft_model_state_dict = lambda _wrapped: used
    refused(adapter, tmp_path, "layers.7.* of the adapter are unused in this base model")


def test_an_adapter_without_peft_says_what_to_install(no_peft, adapter, tmp_path):
    refused(adapter, tmp_path, r"is a PEFT adapter \(LORA\) for .*pip install 'pacplus\[peft\]'")


def test_an_adapter_beside_a_model_without_peft_has_two_ways_out(
    no_peft, adapter, tiny_model, tmp_path
):
    for path in tiny_model("llama").iterdir():
        shutil.copy(path, adapter)
    refused(adapter, tmp_path, "beside a model.*pip install.*move adapter_config.json away")


def test_an_adapter_whose_base_is_not_here_says_where_to_name_it(peft, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", "/no/such/base")
    refused(adapter, tmp_path, "not here.*base_model_name_or_path in .*adapter_config.json")


def test_an_adapter_that_names_no_base_is_told_to(peft, tmp_path):
    refused(write_adapter(tmp_path / "adapter", None), tmp_path, "does not name base_model_name")


def test_an_adapter_that_is_a_pickle_is_not_read(peft, adapter, tmp_path):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(adapter, tmp_path, r"no adapter_model.safetensors.*\.bin")


def test_an_adapter_of_another_tool_names_that_tool(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora"}))
    refused(tmp_path, tmp_path, "MLX or another tool.*mlx_lm.fuse")
