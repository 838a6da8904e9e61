import dataclasses
import io
import json

import pytest

from edge_runtime.contract.errors import BadInputError
from export.chat.conversation import Conversation
from export.chat.sandbox import (
    TemplateSource,
    render_conversations,
    render_prompts,
    render_turn_end,
    work,
)

ANSWER = {"role": "assistant", "content": "ü"}
CHATS = [Conversation.of({"role": "user", "content": asked}, ANSWER) for asked in "ab"]
PLAIN_CHATS = [dataclasses.asdict(chat) for chat in CHATS]
LINES = ("chats.jsonl, line 1", "chats.jsonl, line 2")
PLAIN = "{% for m in messages %}{{ bos }}{{ m.content }}{% endfor %}"


def template(source: str) -> TemplateSource:
    return TemplateSource(where="bundle/chat_template.jinja", source=source, variables={"bos": "^"})


def test_conversations_come_back_in_order():
    (first,), (second,) = render_conversations(template(PLAIN), CHATS, LINES)
    assert (first.text, first.spans) == ("^a^ü", ((2, 4),))
    assert (second.text, second.spans) == ("^b^ü", ((2, 4),))


def test_prompts_end_where_the_assistant_begins():
    asked = dataclasses.replace(CHATS[0], messages=CHATS[0].messages[:1])
    opens = PLAIN + "{% if add_generation_prompt %}>{% endif %}"
    assert render_prompts(template(opens), [asked], LINES) == ["^a>"]


def test_the_end_of_a_turn_is_what_follows_an_answer():
    assert render_turn_end(template(PLAIN.replace("{% endfor", "</s>\n{% endfor"))) == "</s>\n"
    assert render_turn_end(template("{{ raise_exception('no') }}")) == ""


def test_the_line_that_a_template_refuses_is_named():
    refuses = "{% if messages[0].content == 'b' %}{{ raise_exception('not b') }}{% endif %}"
    with pytest.raises(BadInputError, match=r"line 2: .*not b \(bundle/chat_template\.jinja\)"):
        render_conversations(template(refuses + PLAIN), CHATS, LINES)


def test_a_chat_that_holds_what_json_cannot_is_named():
    deep: list = []
    for _ in range(900):
        deep = [deep]
    for value in (b"\xff", deep):
        odd = Conversation.of({"role": "user", "content": "a", "seen": value})
        with pytest.raises(BadInputError, match="line 2: the chat holds what JSON cannot"):
            render_prompts(template(PLAIN), [CHATS[0], odd], LINES)


def test_a_template_that_is_none_is_named():
    with pytest.raises(BadInputError, match=r"line 1: .* cannot be read: .*chat_template\.jinja"):
        render_conversations(template("{% if %}"), CHATS, LINES)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_never_ends_is_ended(source):
    with pytest.raises(BadInputError, match="line 1: the chat template takes too much time"):
        render_conversations(template(source), CHATS, LINES, cpu_seconds=1)


def test_a_template_that_wants_all_memory_gets_a_limit():
    source = "{% set n = messages|length * 10 ** 10 %}{{ 'a' * n }}"
    with pytest.raises(BadInputError, match="line 1: the chat template"):
        render_conversations(template(source), CHATS, LINES)


def test_the_process_stops_at_the_first_error(monkeypatch):
    monkeypatch.setattr("resource.setrlimit", lambda *limits: None)
    job = {
        "source": "{{ raise_exception('no') }}",
        "variables": {},
        "tool_use": "",
        "wanted": "samples",
        "cpu_seconds": 1,
        "conversations": PLAIN_CHATS,
    }
    written = io.StringIO()
    work(io.StringIO(json.dumps(job)), written)
    assert [list(json.loads(line)) for line in written.getvalue().splitlines()] == [["error"]]


def test_each_conversation_has_its_own_time(monkeypatch):
    limits = []
    monkeypatch.setattr("resource.setrlimit", lambda _, limit: limits.append(limit[0]))
    monkeypatch.setattr("time.process_time", iter([0.1, 0.2, 7.5]).__next__)
    job = {
        "source": PLAIN,
        "tool_use": "",
        "variables": {},
        "wanted": "samples",
        "cpu_seconds": 10,
        "conversations": PLAIN_CHATS,
    }
    work(io.StringIO(json.dumps(job)), io.StringIO())
    assert limits == [11, 11, 18]


def test_messages_that_are_no_text_are_named():
    broken = Conversation.of({"role": "user", "content": "a", "name": "\ud800"}, ANSWER)
    source = "{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}"
    with pytest.raises(BadInputError, match="line 2: the messages have lone surrogates"):
        render_conversations(template(source), [CHATS[0], broken], LINES)
