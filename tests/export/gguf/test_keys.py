from __future__ import annotations

import fnmatch

import pytest

from edge_runtime.contract.errors import BadInputError
from export.gguf.config import read_config
from export.gguf.keys import ARCHITECTURES, HARMLESS, NEUTRAL
from export.gguf.reader import open_gguf
from tests.export.gguf.files import language_model, write_gguf

# Keys of files by convert_hf_to_gguf.py, bartowski, unsloth, mradermacher, TheBloke and ollama.
_PROVENANCE = {
    "general.type": "model",
    "general.file_type": 15,
    "general.quantization_version": 2,
    "general.alignment": 32,
    "general.name": "Llama 3.2 1B Instruct",
    "general.finetune": "Instruct",
    "general.basename": "Llama-3.2",
    "general.size_label": "1B",
    "general.license": "llama3.2",
    "general.license.link": "https://example.org",
    "general.tags": ["facebook", "text-generation"],
    "general.languages": ["en"],
    "general.quantized_by": "Unsloth",
    "general.repo_url": "https://huggingface.co/unsloth",
    "general.base_model.count": 1,
    "general.base_model.0.name": "Llama 3.2 1B",
    "general.base_model.0.repo_url": "https://huggingface.co/meta-llama",
    "general.dataset.0.name": "Ultrachat",
    "general.source.huggingface.repository": "meta-llama/Llama-3.2-1B",
    "general.parameter_count": 1235814432,
    "general.sampling.temp": 0.6,
    "general.sampling.top_k": 20,
    "quantize.imatrix.file": "/models_out/imatrix.dat",
    "quantize.imatrix.dataset": "/training_dir/calibration_datav3.txt",
    "quantize.imatrix.entries_count": 112,
    "quantize.imatrix.chunks_count": 125,
    "mradermacher.quantized_by": "mradermacher",
    "split.count": 0,
    "split.no": 0,
    "split.tensors.count": 0,
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_eos_token": False,
    "tokenizer.ggml.add_sep_token": False,
    "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.ggml.remove_extra_whitespaces": False,
    "tokenizer.ggml.eot_token_id": 3,
    "tokenizer.ggml.fim_pre_token_id": 1,
    "tokenizer.ggml.prefix_token_id": 1,
    "tokenizer.ggml.seperator_token_id": 1,
    "tokenizer.ggml.mask_token_id": 1,
    "tokenizer.chat_template.tool_use": "{{ messages }}",
    ".vocab_size": 64,
    ".rope.dimension_count": 8,
    ".rope.scaling.type": "none",
    ".rope.scaling.finetuned": True,
    ".expert_count": 0,
    ".attention.causal": True,
    ".tensor_data_layout": "Meta AI original pth",
}


@pytest.fixture(scope="module")
def model():
    return language_model("llama")


def test_keys_that_only_describe_are_no_reason_to_refuse(tmp_path, model):
    config = read_config(open_gguf(write_gguf(tmp_path / "m.gguf", model, keys=_PROVENANCE)))
    assert config.model_type == "llama"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (".expert_count", 8),
        (".attn_logit_softcapping", 50.0),  # Gemma's, not Llama's
        (".attention.sliding_window", 6),
        (".attention.causal", False),
        (".attention.scale", 0.5),
        (".logit_scale", 0.25),
        (".residual_scale", 0.2),
        (".rope.scaling.attn_factor", 1.2),
        (".rope.dimension_sections", [1, 1, 2, 0]),
        (".some_day", 1),
        ("qwen2.block_count", 2),
        ("tokenizer.ggml.some_day", True),
        ("tokenizer.ggml.add_sep_token", True),
        ("general.some_day", 1),
        ("clip.has_vision_encoder", True),
    ],
)
def test_a_key_that_may_change_the_model_is_refused_by_name(tmp_path, model, key, value):
    file = open_gguf(write_gguf(tmp_path / "m.gguf", model, keys={key: value}))
    name = f"llama{key}" if key.startswith(".") else key
    with pytest.raises(BadInputError, match=rf"m\.gguf: {name} = .*not understood.*{name}"):
        read_config(file)


@pytest.mark.parametrize("window", [0, 80])
def test_a_window_that_hides_nothing_is_harmless(tmp_path, model, window):
    file = write_gguf(tmp_path / "m.gguf", model, keys={".attention.sliding_window": window})
    assert read_config(open_gguf(file)).max_position_embeddings == 80


def test_a_key_that_the_user_knows_not_to_matter_is_passed_over(tmp_path, model):
    file = open_gguf(write_gguf(tmp_path / "m.gguf", model, keys={".some_day": 1}))
    assert read_config(file, lambda name: name == "llama.some_day").model_type == "llama"


def test_all_unknown_keys_are_named_at_once(tmp_path, model):
    keys = {f".odd{place}": place for place in range(3)}
    with pytest.raises(BadInputError, match=r"llama\.odd0 = 0, llama\.odd1 = 1, llama\.odd2 = 2:"):
        read_config(open_gguf(write_gguf(tmp_path / "m.gguf", model, keys=keys)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_fields_that_keys_become_are_those_of_transformers(name):
    from transformers import AutoConfig

    row = ARCHITECTURES[name]
    default = AutoConfig.for_model(row.model_type)
    for field in row.fields.values():
        assert hasattr(default, field), field
    assert set(row.optional) <= set(row.fields)


def test_no_key_has_two_meanings():
    for row in ARCHITECTURES.values():
        for key in (*row.fields, *row.read):
            assert not any(fnmatch.fnmatch(f"x.{key}", pattern) for pattern in NEUTRAL), key
            assert not any(fnmatch.fnmatch(f"x.{key}", pattern) for pattern in HARMLESS), key


def test_an_architecture_that_is_not_read_is_refused_with_those_that_are(tmp_path, model):
    file = open_gguf(write_gguf(tmp_path / "rwkv.gguf", model, architecture="rwkv6"))
    with pytest.raises(BadInputError, match=r"rwkv\.gguf: .*'rwkv6' are not read.*llama.*qwen3"):
        read_config(file)
