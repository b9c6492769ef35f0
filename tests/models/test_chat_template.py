"""Chat templates against transformers' apply_chat_template, and against templates and messages that mean harm."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.support.model_files import TEMPLATE, byte_tokenizer, smollm2
from tiercel.models import chat_template
from tiercel.models.chat_template import render_chat
from tiercel.models.gguf_tokenizer import read_tokenizer
from tiercel.models.tokenizer import Tokenizer
from tiercel.types import CheckpointError, InvalidInput

ROLES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
OURS = Tokenizer(byte_tokenizer(), special_tokens=ROLES)
THEIRS = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), **ROLES)

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Hi <b>there</b> & "you"\n'},
    {"role": "assistant", "content": " Hello!  "},
    {"role": "user", "content": "日本語 🙂"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells <the> weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALLS = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Zürich"}}}]},
    {"role": "tool", "content": "rain"},
]

# The features that templates of Llama, Mistral and Qwen use, in their idiom.
TEMPLATES = {
    "chatml": TEMPLATE,
    "whitespace control": (
        "{%- if messages[0]['role'] == 'system' -%}\n    {%- set system = messages[0]['content'] -%}\n"
        "    {%- set rest = messages[1:] -%}\n{%- else -%}\n    {%- set rest = messages -%}\n{%- endif -%}\n"
        "{{ bos_token }}\n{%- for message in rest %}\n    {% if message.role == 'user' %}\n"
        "[INST] {{ message.content }} [/INST]\n"
        "    {%- else %}\n {{ message.content | trim }}{{ eos_token }}\n    {% endif %}\n{% endfor %}"
    ),
    "tools": (
        "{% if tools %}# Tools\n{% for t in tools %}{{ t | tojson }}\n{{ t | tojson(indent=2) }}{% endfor %}{% endif %}"
        "{% for m in messages %}{{ m.role }}:{% if m.tool_calls %}{% for call in m.tool_calls %}{{ call.function.name }}"
        "({{ call.function.arguments | tojson }}){% endfor %}{% elif m.content is string %}{{ m.content }}{% endif %};"
        "{% endfor %}"
    ),
    "namespace and loop controls": (
        "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.last = loop.index0 %}{% if loop.index0 > 2 %}{% break %}{% endif %}{{ loop.index }}{{ m.content }}"
        "{% endfor %}"
        "{{ ns.last }}{% for i in range(3) %}{{ i }}{% endfor %}{{ messages[::-1][0].content.split(' ')[-1].upper() }}"
    ),
    "macros and tests": (
        "{% macro show(m) %}<{{ m['role'] }}>{{ m.get('content', '') or '' }}{% endmacro %}"
        "{% for m in messages %}{{ show(m) }}{% endfor %}{{ enable_thinking is defined and enable_thinking }}"
        "{{ missing is not defined }}{{ [1, 2] | length }}{{ 'a,b'.split(',') | join('+') }}{{ none is none }}"
        "{% if add_generation_prompt %}GO{% endif %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}|{% endfor %}"
    ),
    "dates": "{{ strftime_now('%Y') }} {{ date_string if date_string is defined else 'no date' }} {{ messages | length }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", [CHAT, CALLS], ids=["chat", "calls"])
@pytest.mark.parametrize("prompt", [True, False])
def test_equal_to_transformers(name: str, messages: list[dict[str, Any]], prompt: bool) -> None:
    extra = {"enable_thinking": True, "date_string": "today"}

    def theirs() -> str:
        return THEIRS.apply_chat_template(
            messages, TOOLS, chat_template=TEMPLATES[name], add_generation_prompt=prompt, tokenize=False, **extra
        )

    def ours() -> str:
        return render_chat(TEMPLATES[name], OURS, messages, TOOLS, add_generation_prompt=prompt, **extra)

    assert ours() == theirs()


@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=30)}),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(sorted(TEMPLATES)),
)
def test_any_conversation_equals_transformers(messages: list[dict[str, str]], name: str) -> None:
    expected = THEIRS.apply_chat_template(messages, chat_template=TEMPLATES[name], add_generation_prompt=True, tokenize=False)
    assert render_chat(TEMPLATES[name], OURS, messages) == expected


def test_smollm2() -> None:
    file = smollm2()
    tokenizer = read_tokenizer(file)
    prompt = render_chat(file.metadata["tokenizer.chat_template"], tokenizer, [{"role": "user", "content": "Hi"}])
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    assert [token_id for token_id in ids if tokenizer.is_special(token_id)] == [1, 2, 1, 2, 1]


def test_the_year_is_this_one() -> None:
    assert render_chat("{{ strftime_now('%Y') }}", OURS, CHAT) in {str(datetime.now().year), str(datetime.now().year - 1)}


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render_chat("{{ messages[0].content }}", OURS, [{"role": "user", "content": parts}]) == "one\ntwo"
    assert render_chat("{{ messages[0].content }}.", OURS, [{"role": "user", "content": []}]) == "."


class Colour(StrEnum):
    RED = "user"


def test_subclasses_become_plain_values() -> None:
    assert render_chat("{{ messages[0].role }}", OURS, [{"role": Colour.RED, "content": ""}]) == "user"


def test_messages_are_not_changed() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    render_chat(TEMPLATE, OURS, messages)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "x"}]}]


WRONG_MESSAGES: list[tuple[Any, str]] = [
    ([], "must not be empty"),
    ("hello", "must be a list of objects"),
    ({"role": "user"}, "must be a list of objects"),
    (["hello"], "must be a list of objects"),
    ([{}], r"messages\[0\] needs a role"),
    ([CHAT[0], {"content": "x"}], r"messages\[1\] needs a role"),
    ([{"role": 3, "content": "x"}], "needs a role"),
    ([{"role": "user", "content": 3}], r"messages\[0\].content must be a text or a list of text parts"),
    ([{"role": "user", "content": {"text": "x"}}], "content must be a text"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "only parts of type text"),
    ([{"role": "user", "content": [{"type": "text"}]}], "only parts of type text"),
    ([{"role": "user", "content": [None]}], "only parts of type text"),
    ([{"role": "user", "content": Path("x")}], "must be made of texts, numbers, lists and objects"),
    ([{"role": "user", "content": b"x"}], "must be made of texts"),
]


@pytest.mark.parametrize(("messages", "message"), WRONG_MESSAGES)
def test_wrong_messages(messages: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as error:
        render_chat(TEMPLATE, OURS, messages)
    assert error.value.field == "messages"


def test_messages_within_themselves() -> None:
    nested: list[Any] = []
    nested.append(nested)
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    for content in (nested, deep):
        with pytest.raises(InvalidInput, match="must be made of texts"):
            render_chat(TEMPLATE, OURS, [{"role": "user", "content": content}])


def test_wrong_tools() -> None:
    with pytest.raises(InvalidInput, match="tools: must be a list of objects"):
        render_chat(TEMPLATE, OURS, CHAT, ["weather"])  # type: ignore[list-item]


def test_a_model_without_a_template() -> None:
    with pytest.raises(InvalidInput, match="this model has no chat template; send a plain prompt instead"):
        render_chat(None, OURS, CHAT)


@pytest.mark.parametrize(
    "template",
    ["{% for %}", "{{ }", "{% nonsense %}", "{% generation %}", "{{ x | no_such_filter }}", "{{ (" * 2000, " " * (1 << 21)],
)
def test_templates_that_are_not_valid(template: str) -> None:
    with pytest.raises(CheckpointError, match="the model's chat template is") as error:
        render_chat(template, OURS, CHAT)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
    ],
)
def test_templates_that_fail_or_try_to_break_out(template: str) -> None:
    with pytest.raises(InvalidInput, match="the model's chat template does not accept them") as error:
        render_chat(template, OURS, CHAT)
    assert len(str(error.value)) < 450


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception.__globals__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ ''.__class__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
    ],
)
def test_what_the_sandbox_hides_reads_as_nothing(template: str) -> None:
    assert render_chat(template, OURS, CHAT) == ""


def test_the_refusal_of_a_template_is_passed_on() -> None:
    with pytest.raises(InvalidInput, match="roles must alternate"):
        render_chat("{{ raise_exception('roles must alternate') }}", OURS, CHAT)


def test_output_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_PROMPT_CHARACTERS", 10_000)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{{ messages[0].content }}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidInput, match="grew beyond 10000 characters"):
        render_chat(endless, OURS, CHAT)
