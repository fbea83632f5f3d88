"""Chat templates in their own process: Transformers' text, and bounds that nothing gets past."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import demo_model
from penstock.contract.job import ChatPrompt
from penstock.errors import ContextOverflow, InvalidParameter
from penstock.models.text import rendering, tokenizer_files
from tests.unit.models.test_tokenizer import spec_of

if TYPE_CHECKING:
    from pathlib import Path

USER = {"role": "user", "content": "What is 3 < 4 & 'so'?"}
CALLING = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}],
}
THINKING = {"role": "assistant", "content": "Four.", "reasoning": "Hm."}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

TEMPLATES = {
    "demo": (demo_model.path() / "chat_template.jinja").read_text(encoding="utf-8"),
    "loops": "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}\n"
    "  {% if m.role == 'tool' %}{% continue %}{% endif %}\n"
    "{{ m.role }}: {{ m.content or '' }}{{ eos_token }}\n{% endfor %}",
    "json": "{{ tools | tojson }}{{ messages | tojson(indent=2) }}{{ messages | tojson(sort_keys=true) }}",
    "spaces": "{%- set ns = namespace(last='') %}\n{% for m in messages %}\n"
    "{% set ns.last = m.role %}\n<{{ m.content | trim }}>\n{% endfor %}{{ ns.last }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }};{% endfor %}",
    "arguments": "{{ enable_thinking }}{{ documents }}{{ bos_token }}{{ dict(a=1) }}"
    "{% if add_generation_prompt %}go{% endif %}{{ messages[0].nothing is defined }}",
}
CHATS: dict[str, tuple[dict[str, Any], ...]] = {
    "one": (USER,),
    "calls": (USER, CALLING, {"role": "tool", "content": '{"b": 2}'}, THINKING, USER),
}


@pytest.fixture(scope="module")
def library() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_model.path())


@pytest.fixture
def words(tiny_llama: Path) -> Any:
    return lambda template: tokenizer_files.load(spec_of(tiny_llama, chat_template=template), 512)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_are_transformers(library: Any, name: str, chat: str) -> None:
    template, messages = TEMPLATES[name], list(CHATS[chat])
    given = {"enable_thinking": False, "tools": [TOOL], "add_generation_prompt": True}
    expected = library.apply_chat_template(
        messages, chat_template=template, tokenize=False, **given
    )
    variables = {"documents": None, **library.special_tokens_map, **given}
    assert rendering.render(
        template, messages, variables, continues=False, most_characters=None
    ) == expected  # fmt: skip


@pytest.mark.parametrize("content", ["The answer", "The answer ", "{{ 7 }}", ""])
@pytest.mark.parametrize("name", ["demo", "spaces", "loops"])
def test_continued_texts_are_transformers(library: Any, name: str, content: str) -> None:
    template = TEMPLATES[name]
    messages = [USER, {"role": "assistant", "content": content}]
    expected = library.apply_chat_template(
        messages, chat_template=template, tokenize=False, continue_final_message=True
    )
    variables = {"tools": None, "documents": None, "add_generation_prompt": False}
    variables |= library.special_tokens_map
    assert rendering.render(
        template, messages, variables, continues=True, most_characters=None
    ) == expected  # fmt: skip


def test_a_continued_message_has_to_be_in_the_text(library: Any) -> None:
    with pytest.raises(rendering.TemplateRefuses, match="omits the last message"):
        rendering.render("{{ 1 }}", [USER], {}, continues=True, most_characters=None)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ '%9999999999d' % 1 }}", "memory"),
        ("{{ 'a' * 10 ** 11 }}", "memory"),
        ("{{ (('a' * 10 ** 7) * 100) | length }}", "memory"),
        ("{{ 'x' | center(10 ** 12) }}", "memory"),
        ("{% set s = namespace(a='ab') %}{% for i in range(60) %}{% set s.a = s.a + s.a %}{% endfor %}",
         "memory"),
        ("{{ ().__class__.__bases__ }}", "unsafe"),
        ("{% set n = namespace(_a=1) %}", "underscore"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)  # fmt: skip
def test_what_a_template_does_beyond_its_bounds_is_the_requests_error(
    words: Any, template: str, message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        words(template).encode(ChatPrompt(messages=(USER,)))
    assert caught.value.param == "messages"
    assert "chat template refuses these messages" in caught.value.message


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_loops_is_ended_and_the_next_chat_is_rendered(
    words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "TEMPLATE_S", 0.5)
    looping = words("{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}fine")
    looping.render(ChatPrompt(messages=(USER,)))
    began_s = time.monotonic()
    with pytest.raises(InvalidParameter, match=r"it takes longer than 0.5 s"):
        looping.render(ChatPrompt(messages=({"role": "user", "content": "loop"},)))
    assert time.monotonic() - began_s < 5
    assert looping.render(ChatPrompt(messages=(USER,))) == "fine"


def test_a_thread_in_a_hurry_gives_a_slow_template_up_sooner(
    words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "QUICK_S", 0.1)
    looping = words(LOOP)
    rendering.warm()
    with rendering.quickly(), pytest.raises(rendering.TakesLong):
        looping.render(ChatPrompt(messages=(USER,)))


def test_no_thread_waits_for_anothers_template(words: Any) -> None:
    looping, plain = words(LOOP), words("plain")
    errors: list[Exception] = []

    def loop() -> None:
        try:
            looping.render(ChatPrompt(messages=(USER,)))
        except InvalidParameter as error:
            errors.append(error)

    thread = threading.Thread(target=loop)
    plain.render(ChatPrompt(messages=(USER,)))
    thread.start()
    try:
        for _ in range(20):
            assert plain.render(ChatPrompt(messages=(USER,))) == "plain"
        assert thread.is_alive()
    finally:
        thread.join()
    assert errors


def test_a_process_that_was_killed_is_replaced(words: Any) -> None:
    plain = words("{{ messages[0].content }}")
    plain.render(ChatPrompt(messages=(USER,)))
    process = rendering._own.process
    assert process is not None
    assert process._child is not None
    process._child.kill()
    process._child.wait()
    assert plain.render(ChatPrompt(messages=(USER,))) == USER["content"]


def test_a_text_at_its_bound_of_characters(words: Any) -> None:
    plain = words("{{ messages[0].content }}")
    plain.most_tokens = 1_000
    most = 1_000 * plain.longest_token_chars

    def render(length: int) -> str:
        return plain.render(ChatPrompt(messages=({"role": "user", "content": "a" * length},)))

    assert len(render(most)) == most
    for length in (most + 1, 8_000_000):
        with pytest.raises(ContextOverflow, match=f"has {length} characters"):
            render(length)


def test_an_ordinary_chat_costs_little(words: Any) -> None:
    demo = words(TEMPLATES["demo"])
    chat = ChatPrompt(messages=({"role": "system", "content": "x" * 500}, USER))
    demo.render(chat)
    taken_s: list[float] = []
    for _ in range(200):
        began_s = time.perf_counter()
        demo.render(chat)
        taken_s.append(time.perf_counter() - began_s)
    assert sorted(taken_s)[20] < 0.005  # a tenth of them are hardly disturbed by other processes


def test_every_kind_of_value_reaches_a_template(words: Any) -> None:
    value = {"a": [1, 2.5, None, True, "\ud800é"], "big": 10**30}
    rendered = words("{{ value | tojson }}").render(
        ChatPrompt(messages=(USER,), template_kwargs={"value": value})
    )
    assert json.loads(rendered) == value
