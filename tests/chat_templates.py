# ruff: noqa: E501
"""Chat templates in the manner of the known families, written for the tests.

``[[`` and ``]]`` stand around what the model writes: :func:`marked` says so to transformers,
:func:`unmarked` leaves it to be found.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

CHATML = """{%- for m in messages %}{{- '<|im_start|>' ~ m.role ~ '\\n' }}
{%- if m.role == 'assistant' %}[[{{- m.content ~ '<|im_end|>' }}]]{{- '\\n' }}{%- else %}{{- m.content ~ '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

SMOLLM2 = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}"
    + CHATML
)

_CALLS = """{%- for call in m.tool_calls %}{%- set f = call.function %}{{- '\\n<tool_call>\\n{"name": "' ~ f.name ~ '", "arguments": ' }}{{- ARGUMENTS }}{{- '}\\n</tool_call>' }}{%- endfor %}"""
_ANSWERS = """{%- elif m.role == 'tool' %}{{- '<|im_start|>user\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response><|im_end|>\\n' }}"""
_SYSTEM = """{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- else %}{{- 'You help.' }}{%- endif %}
{%- if tools %}{{- '\\n\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '\\n</tools>' }}{%- endif %}{{- '<|im_end|>\\n' }}"""

QWEN25 = (
    _SYSTEM
    + """{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}[[{%- if m.content %}{{- m.content }}{%- endif %}"""
    + _CALLS.replace("ARGUMENTS", "f.arguments | tojson")
    + """{{- '<|im_end|>' }}]]{{- '\\n' }}"""
    + _ANSWERS
    + """{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
)

QWEN3 = (
    """{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"""
    + _SYSTEM
    + """{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<|im_start|>user\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}[[{%- set thought = m.reasoning_content if m.reasoning_content is string else '' %}
{%- if loop.index0 > ns.last %}{{- '<think>\\n' ~ thought.strip('\\n') ~ '\\n</think>\\n\\n' }}{%- endif %}{%- if m.content %}{{- m.content }}{%- endif %}"""
    + _CALLS.replace(
        "ARGUMENTS", "f.arguments if f.arguments is string else (f.arguments | tojson)"
    )
    + """{{- '<|im_end|>' }}]]{{- '\\n' }}"""
    + _ANSWERS
    + """{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"""
)

LLAMA3 = """{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' }}
{%- if m.role == 'assistant' %}[[{{- m.content | trim ~ '<|eot_id|>' }}]]{%- else %}{{- m.content | trim ~ '<|eot_id|>' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

GEMMA = """{{- bos_token }}{%- set ns = namespace(skip=0, first='') %}
{%- if messages[0].role == 'system' %}{%- set ns.skip = 1 %}{%- set ns.first = messages[0].content ~ '\\n\\n' %}{%- endif %}
{%- for m in messages[ns.skip:] %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate: user, assistant, user') }}{%- endif %}
{%- set said = m.content if m.content is string else (m.content | map(attribute='text') | join) %}
{%- if m.role == 'assistant' %}{{- '<start_of_turn>model\\n' }}[[{{- said | trim ~ '<end_of_turn>' }}]]{{- '\\n' }}
{%- else %}{{- '<start_of_turn>user\\n' ~ (ns.first if loop.first else '') ~ said | trim ~ '<end_of_turn>\\n' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

MISTRAL = """{{- bos_token }}{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('after the optional system message, roles must alternate') }}{%- endif %}
{%- if m.role == 'user' %}{{- '[INST] ' ~ m.content ~ ' [/INST]' }}{%- else %}[[{{- ' ' ~ m.content ~ eos_token }}]]{%- endif %}
{%- endfor %}"""

PHI = """{%- for m in messages %}{{- '<|' ~ m.role ~ '|>\\n' }}
{%- if m.role == 'assistant' %}[[{{- m.content ~ '<|end|>' }}]]{{- '\\n' }}{%- else %}{{- m.content ~ '<|end|>\\n' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""

DEEPSEEK = """{{- bos_token }}{%- for m in messages %}
{%- if m.role == 'system' %}{{- m.content }}{%- elif m.role == 'user' %}{{- '<|User|>' ~ m.content }}
{%- elif m.role == 'tool' %}{{- '<|output|>' ~ m.content }}
{%- else %}{{- '<|Assistant|>' }}[[{%- if m.content %}{{- m.content }}{%- endif %}{%- for call in m.tool_calls %}{{- '<|call|>' + call.function.name + '\\n' + call.function.arguments }}{%- endfor %}{{- eos_token }}]]{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|Assistant|>' }}{%- endif %}"""

TEMPLATES = {
    "chatml": CHATML,
    "llama-3": LLAMA3,
    "qwen-2.5": QWEN25,
    "qwen-3": QWEN3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "phi": PHI,
    "smollm2": SMOLLM2,
    "deepseek": DEEPSEEK,
}
TURN_ENDS = {
    **dict.fromkeys(("chatml", "smollm2", "qwen-2.5", "qwen-3"), "<|im_end|>"),
    **dict.fromkeys(("mistral", "deepseek"), "</s>"),
    "llama-3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi": "<|end|>",
}
SPECIAL = (
    *("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|system|>"),
    *("<|assistant|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|User|>", "<|Assistant|>", "<|call|>", "<|output|>"),
)


def marked(template: str) -> str:
    """The template with ``{% generation %}`` around what the model writes."""
    return template.replace("[[", "{%- generation -%}").replace("]]", "{%- endgeneration -%}")


def unmarked(template: str) -> str:
    """The template as most models have it."""
    return template.replace("[[", "").replace("]]", "")


def chat_tokenizer(folder: Path, template: str) -> Path:
    """Writes a tokenizer of bytes with the special tokens and a template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *alphabet])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "unk_token": "<unk>"}))
    (folder / "chat_template.jinja").write_text(template)
    return folder
