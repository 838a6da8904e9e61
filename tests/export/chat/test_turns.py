import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.chat.conversation import Conversation, Rendered
from export.chat.template import ChatTemplate, ChatTemplateError
from export.chat.turns import Turns

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


def samples_of(source: str, messages: list[Any], **more: Any) -> list[Rendered]:
    chat = dataclasses.replace(Conversation.of(*messages), **more)
    return Turns(ChatTemplate(source, TOKENS)).samples(chat)


def learnt(chat: Rendered) -> list[str]:
    return [chat.text[start:end] for start, end in chat.spans]


def counted(source: str, messages: list[Any], **more: Any) -> list[str]:
    (chat,) = samples_of(source, messages, **more)
    return learnt(chat)


def prompt_of(source: str, *messages: Any) -> str:
    return Turns(ChatTemplate(source, TOKENS)).prompt(Conversation.of(*messages))


def test_turns_in_chatml_are_what_follows_the_generation_prompt():
    assert counted(CHATML, TWO_TURNS) == ["hello<|im_end|>\n", "so<|im_end|>\n"]


def test_turns_in_llama_2_are_what_follows_the_instruction():
    assert counted(LLAMA_2, TWO_TURNS) == [" hello </s>", " so </s>"]
    system = {"role": "system", "content": "be kind"}
    assert counted(LLAMA_2, [system, *TWO_TURNS]) == [" hello </s>", " so </s>"]


def test_a_chat_may_begin_with_the_assistant():
    assert counted(FORGETFUL, [assistant("ready")]) == ["<think></think>ready\n"]
    said = counted(CHATML, [assistant("ready"), user("go"), assistant("gone")])
    assert said == ["ready<|im_end|>\n", "gone<|im_end|>\n"]


def test_a_turn_that_a_later_one_rewrites_is_learnt_in_a_sample_that_it_ends():
    whole, first = samples_of(FORGETFUL, TWO_TURNS)
    assert learnt(whole) == ["<think></think>so\n"]
    assert whole.text == "user: hi\nassistant: hello\nuser: how?\nassistant: <think></think>so\n"
    assert first.text == "user: hi\nassistant: <think></think>hello\n"
    assert learnt(first) == ["<think></think>hello\n"]


def test_a_turn_that_a_question_behind_it_rewrites_is_learnt_in_a_chat_that_ends_with_it():
    # Only the last answer has its thought, and it loses it to a question.
    loses = FORGETFUL.replace("loop.last and", "loop.index0 == 3 and loop.last and")
    whole, last = samples_of(loses, [*TWO_TURNS, user("and?")])
    assert learnt(whole) == ["hello\n"]
    assert learnt(last) == ["<think></think>so\n"]


def test_a_prompt_that_opens_a_thought_does_not_hide_where_a_turn_begins():
    opens = FORGETFUL.replace("}}assistant: {%", "}}assistant: <think>\n{%").replace(
        "%}assistant: {% endif", "%}assistant: <think>\n{% endif"
    )
    assert prompt_of(opens, user("hi")).endswith("assistant: <think>\n")
    closed = opens.replace("<think></think>", "")
    assert counted(closed, [user("hi"), assistant("<thanks>")]) == ["<thanks>\n"]


def test_a_turn_that_nobody_can_find_is_an_error():
    hides = "{% for m in messages %}{{ m.content | upper }}{% endfor %}{{ messages | length }}"
    with pytest.raises(ChatTemplateError, match=r"cannot be split .* \{% generation %\}"):
        samples_of(
            hides + "{% if add_generation_prompt %}x{% endif %}", [user("a"), assistant("b")]
        )


def test_only_turns_that_are_learnt_count():
    masked = (False, False, False, True)
    assert counted(CHATML, TWO_TURNS, learnt=masked) == ["so<|im_end|>\n"]
    assert counted(MARKED, TWO_TURNS, learnt=masked) == ["<think></think>so</s>"]


def test_a_template_may_say_itself_what_the_model_writes():
    assert counted(MARKED, TWO_TURNS) == ["hello</s>", "<think></think>so</s>"]
    (chat,) = samples_of(MARKED, TWO_TURNS)
    assert chat.text == "U: hi\nA: hello</s>U: how?\nA: <think></think>so</s>"
    assert prompt_of(MARKED, *TWO_TURNS[:1]) == "U: hi\nA: "


def test_a_message_cannot_pass_for_the_assistants():
    marks = "{% generation %}x{% endgeneration %}"
    assert counted(MARKED, [user(marks), assistant("b")]) == ["<think></think>b</s>"]


def test_a_prompt_ends_where_the_assistant_begins():
    assert prompt_of(CHATML, user("hi")).endswith("<|im_start|>assistant\n")


COMPILED = (ChatTemplate(CHATML, TOKENS), ChatTemplate(LLAMA_2, TOKENS))
CONTENTS = st.text(max_size=12)


@given(st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=4))
def test_every_turn_is_found_whatever_it_says(turns):
    messages = [m for asked, said in turns for m in (user(asked), assistant(said))]
    for template, expected in (
        (COMPILED[0], [f"{said}<|im_end|>\n" for _, said in turns]),
        (COMPILED[1], [f" {said.strip()} </s>" for _, said in turns]),
    ):
        (chat,) = Turns(template).samples(Conversation.of(*messages))
        assert learnt(chat) == expected


def test_what_a_template_refuses_is_said_in_its_words():
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        counted(LLAMA_2, [user("a"), user("b"), assistant("c")])


def test_json_in_templates_is_not_made_for_html():
    written = prompt_of("{{ messages[0].content | tojson }}", user("<é>"))
    assert json.loads(written) == "<é>"
    assert "<é>" in written


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
        samples_of(source, TWO_TURNS)


def test_what_a_template_cannot_see_is_nothing():
    for source in ("{{ ''|attr('__class__') }}", "{{ range.__self__ }}"):
        assert ChatTemplate(source, {}).render(Conversation.of(), []).text == ""
