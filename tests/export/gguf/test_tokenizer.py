"""Ids are those of llama.cpp's own tokenizer for the same file and text, taken down once."""

from __future__ import annotations

import pytest

from edge_runtime.contract.errors import BadInputError
from export.gguf.reader import open_gguf
from export.gguf.tokenizer import read_tokenizer
from tests.export.gguf.files import TEMPLATE, TOKENIZER, language_model, write_gguf


@pytest.fixture(scope="module")
def model():
    return language_model("llama")
