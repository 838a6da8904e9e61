from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from export.chat.stop_tokens import names_of, stop_tokens
from tests.chat_templates import SPECIAL, TEMPLATES, TURN_ENDS, chat_tokenizer, unmarked

EOS = SPECIAL.index("</s>")


@pytest.mark.parametrize("family", TEMPLATES)
def test_what_ends_an_answer_in_training_ends_a_generated_text(tmp_path: Path, family) -> None:
    folder = chat_tokenizer(tmp_path, unmarked(TEMPLATES[family]))
    found, notes = stop_tokens(folder, (EOS,), 300, "model")
    assert found == tuple(dict.fromkeys((EOS, SPECIAL.index(TURN_ENDS[family]))))
    assert notes == ()


def test_the_tokenizers_end_token_ends_a_text_where_no_configuration_has_one(tmp_path) -> None:
    folder = chat_tokenizer(tmp_path, unmarked(TEMPLATES["chatml"]))
    assert stop_tokens(folder, (), 300, "model")[0] == (EOS, SPECIAL.index("<|im_end|>"))
    assert names_of(folder, (EOS,)) == [f"{EOS} (</s>)"]


@pytest.mark.parametrize(
    ("end", "said"),
    [("", "writes nothing that ends an answer"), ("###", "the text '###', which is")],
)
def test_a_template_without_a_token_that_ends_an_answer_is_said(tmp_path, end, said) -> None:
    template = "{% for m in messages %}{{ m.content }}" + end + "\n{% endfor %}"
    found, (note,) = stop_tokens(chat_tokenizer(tmp_path, template), (EOS,), 300, "model")
    assert found == (EOS,)
    assert said in note


def test_an_end_token_beyond_the_vocabulary_is_refused(tmp_path) -> None:
    folder = chat_tokenizer(tmp_path, "")
    with pytest.raises(BadInputError, match="model: eos_token_id 300 is beyond the model's 300"):
        stop_tokens(folder, (EOS, 300), 300, "model")
