from __future__ import annotations

import importlib.util
import struct

import pytest

from edge_runtime.contract.errors import BadInputError, MissingExtraError
from export.gguf.reader import open_gguf
from tests.export.gguf.files import language_model, write_gguf

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not", r"model\.gguf: is no GGUF file$"),
        (b"", r"is no GGUF file$"),
        (_POINTER, r"is a Git LFS pointer.* git lfs pull$"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), r"of version 1.* convert the model again"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), r"is big-endian.* gguf-convert-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 9, 9), r"is cut off or damaged"),
        (b"GGUF\3", r"is cut off or damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_called_what_it_is(tmp_path, content, message):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(BadInputError, match=message) as caught:
        open_gguf(tmp_path / "model.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_a_cut_off_download_is_refused(tmp_path, share):
    file = write_gguf(tmp_path / "whole.gguf", language_model("llama"))
    whole = file.read_bytes()
    (tmp_path / "part.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInputError, match=r"is cut off or damaged .*again$"):
        open_gguf(tmp_path / "part.gguf")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.type": "adapter"}, r"is a LoRA adapter.* llama-export-lora"),
        ({"adapter.type": "lora"}, r"is a LoRA adapter"),
        ({"general.type": "mmproj"}, r"image or audio part"),
        ({"general.type": "imatrix"}, r"general\.type is 'imatrix'"),
        ({"split.count": 3, "split.no": 1}, r"is part 2 of 3 .* llama-gguf-split --merge"),
    ],
)
def test_a_part_of_a_model_is_refused_with_the_way_out(tmp_path, keys, message):
    file = write_gguf(tmp_path / "part.gguf", language_model("llama"), keys=keys)
    with pytest.raises(BadInputError, match=message):
        open_gguf(file)


def test_a_vocabulary_without_weights_is_refused(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "vocab.gguf", "llama")
    writer.add_token_list(["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(BadInputError, match="has a vocabulary only"):
        open_gguf(tmp_path / "vocab.gguf")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(MissingExtraError, match=r"gguf is not installed.*pacplus\[export\]"):
        open_gguf(tmp_path / "model.gguf")
