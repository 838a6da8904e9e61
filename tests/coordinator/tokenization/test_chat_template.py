import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.tokenization.chat_template import ChatTemplate, ChatTemplateError

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
# Thoughts are shown in the last answer only, so an answer changes with what comes after it.
FORGETFUL = (
    "{% for m in messages %}{{ m.role }}: "
    "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
MARKED = (
    "{%- for m in messages %}\n    {%- if m.role == 'assistant' %}\n"
    "{{- 'A: ' }}{% generation %}{% if loop.last %}<think></think>{% endif %}"
    "{{ m.content }}</s>{% endgeneration %}\n"
    "    {%- else %}{{- 'U: ' ~ m.content ~ '\n' }}{%- endif %}\n{%- endfor %}"
    "{%- if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


TWO_TURNS = [user("hi"), assistant("hello"), user("how?"), assistant("so")]


def counted(source: str, messages: list[dict[str, str]]) -> list[str]:
    chat = ChatTemplate(source, TOKENS).conversation(messages)
    return [chat.text[start:end] for start, end in chat.spans]


def test_turns_in_chatml_are_what_follows_the_generation_prompt():
    assert counted(CHATML, TWO_TURNS) == ["hello<|im_end|>\n", "so<|im_end|>\n"]


def test_turns_in_llama_2_are_what_follows_the_instruction():
    assert counted(LLAMA_2, TWO_TURNS) == [" hello </s>", " so </s>"]
    system = {"role": "system", "content": "be kind"}
    assert counted(LLAMA_2, [system, *TWO_TURNS]) == [" hello </s>", " so </s>"]


def test_the_first_message_may_be_the_assistants_where_the_template_puts_nothing_before_it():
    assert counted(FORGETFUL, [assistant("ready")]) == ["<think></think>ready\n"]
    with pytest.raises(ChatTemplateError, match="up to message 0"):
        counted(CHATML, [assistant("ready"), user("go")])


def test_a_template_that_rewrites_earlier_turns_cannot_be_split():
    with pytest.raises(ChatTemplateError, match=r"cannot be split .* \{% generation %\}"):
        counted(FORGETFUL, TWO_TURNS)


def test_a_template_may_say_itself_what_the_model_writes():
    assert counted(MARKED, TWO_TURNS) == ["hello</s>", "<think></think>so</s>"]
    chat = ChatTemplate(MARKED, TOKENS)
    assert chat.conversation(TWO_TURNS).text == (
        "U: hi\nA: hello</s>U: how?\nA: <think></think>so</s>"
    )
    assert chat.prompt(TWO_TURNS[:1]) == "U: hi\nA: "


def test_a_message_cannot_pass_for_the_assistants():
    marks = "{% generation %}x{% endgeneration %}"
    assert counted(MARKED, [user(marks), assistant("b")]) == ["<think></think>b</s>"]


def test_a_prompt_ends_where_the_assistant_begins():
    assert ChatTemplate(CHATML, {}).prompt([user("hi")]).endswith("<|im_start|>assistant\n")


COMPILED = (ChatTemplate(CHATML, TOKENS), ChatTemplate(LLAMA_2, TOKENS))
CONTENTS = st.text(max_size=12)


@given(st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=4))
def test_every_turn_is_found_whatever_it_says(turns):
    messages = [m for asked, said in turns for m in (user(asked), assistant(said))]
    for template, expected in (
        (COMPILED[0], [f"{said}<|im_end|>\n" for _, said in turns]),
        (COMPILED[1], [f" {said.strip()} </s>" for _, said in turns]),
    ):
        chat = template.conversation(messages)
        assert [chat.text[start:end] for start, end in chat.spans] == expected


def test_what_a_template_refuses_is_said_in_its_words():
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        counted(LLAMA_2, [user("a"), user("b"), assistant("c")])


def test_json_in_templates_is_not_made_for_html():
    chat = ChatTemplate("{{ messages[0].content | tojson }}", {})
    assert json.loads(chat.conversation([user("<é>")]).text) == "<é>"
    assert "<é>" in chat.conversation([user("<é>")]).text


@pytest.mark.parametrize(
    "source",
    [
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(namespace()) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='assistant') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(100000) %}aaaaaaaaaaaaaaaa{% endfor %}",
        "{{ strftime_now('%Y') }}",
        "{{ messages | random }}",
        "{{ ''.join(",
        "{{ messages | nosuchfilter }}",
    ],
)
def test_a_hostile_or_broken_template_is_refused(source):
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source, {}).conversation(TWO_TURNS)


def test_what_a_template_cannot_see_is_nothing():
    for source in ("{{ ''|attr('__class__') }}", "{{ range.__self__ }}"):
        assert ChatTemplate(source, {}).prompt([user("a")]) == ""
