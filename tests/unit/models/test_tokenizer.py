"""The tokenizer facade: templates, refusals, round trips."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from penstock.contract.job import ChatPrompt, TextPrompt, TokenPrompt
from penstock.errors import InvalidParameter, ModelNotLoadable
from penstock.models.spec import ModelSpec
from penstock.models.text import token_bytes, tokenizer_files
from penstock.models.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def spec_of(path: Path, **changes) -> ModelSpec:
    fields = {"name": "m", "queue": "m-cpu", "device": "cpu", "device_index": None, "path": path}
    return ModelSpec(**{**fields, "backend": "transformers", **changes})


@pytest.fixture(scope="module")
def words(tiny_llama):
    return tokenizer_files.load(spec_of(tiny_llama), 512)


@pytest.fixture(scope="module")
def plain(tiny_llama_plain):
    return tokenizer_files.load(spec_of(tiny_llama_plain), 512)


def chat(*messages, **options) -> ChatPrompt:
    return ChatPrompt(messages=messages, **options)


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("text", ["", "Hello", "naïve 你好 🙂\n\ttab", " leading", "<|im_end|>x"])
def test_text_round_trips_but_for_special_tokens(words, text):
    ids = words.encode(TextPrompt(text))
    assert words.decode(ids) == text.replace("<|im_end|>", "")
    assert "".join(words.token_text(token) for token in words.encode(TextPrompt("a b"))) == "a b"


def test_parts_of_a_character_have_bytes(words):
    ids = words.encode(TextPrompt("é 你"))
    assert any("\ufffd" in words.token_text(token) for token in ids)
    assert b"".join(map(words.token_bytes, ids)) == "é 你".encode()
    assert words.token_bytes(2) == b"<|im_end|>"


@pytest.mark.parametrize(
    ("piece", "alone", "text", "raw"),
    [
        ("<0xC3>", "\ufffd", "\ufffd", b"\xc3"),
        ("▁Hello", "Hello", " Hello", b" Hello"),
        ("▁▁", " ", "  ", b"  "),
        ("Ã", "\ufffd", "\ufffd", b"\xc3"),
        (b"\xe4\xbd", "\ufffd", "\ufffd", b"\xe4\xbd"),
        ("ï¿½", "\ufffd", "\ufffd", "\ufffd".encode()),
        ("\ufffd", "\ufffd", "\ufffd", "\ufffd".encode()),
    ],
)
def test_what_a_vocabularys_entry_is_alone(piece, alone, text, raw):
    assert token_bytes.with_spaces(piece, alone) == text
    if "\ufffd" in text:
        assert token_bytes.of_piece(piece, text) == raw


def test_ends_come_from_the_generation_config_and_the_tokenizer(words, plain):
    assert words.eos_token_ids == {0, 2}
    assert plain.eos_token_ids == {0, 2}


def test_the_models_own_template_is_used(words):
    assert words.has_chat_template
    assert words.render(chat(USER)) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert words.encode(chat(USER)) == words.encode(
        TextPrompt(words.render(chat(USER)), add_special_tokens=False)
    )


def test_no_generation_prompt_and_a_continued_message(words):
    assert words.render(chat(USER, add_generation_prompt=False)).endswith("Hi<|im_end|>\n")
    begun = {"role": "assistant", "content": "The answer is"}
    rendered = words.render(
        chat(USER, begun, add_generation_prompt=False, continue_final_message=True)
    )
    assert rendered.endswith("<|im_start|>assistant\nThe answer is")
    with pytest.raises(InvalidParameter, match="exclude each other"):
        words.render(chat(USER, begun, continue_final_message=True))


def test_text_parts_are_joined_and_missing_content_is_empty(words):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<" in words.render(chat({"role": "user", "content": parts}))
    assert "assistant\n<" in words.render(chat({"role": "assistant", "content": None}, USER))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "'image_url'"),
        ({"role": "user", "content": 7}, "text or a list of parts"),
        ({"content": "x"}, "needs a role"),
        ({"role": "wizard", "content": "x"}, "Unknown role: wizard"),
    ],
)
def test_messages_that_cannot_be_rendered_are_refused(words, message, says):
    with pytest.raises(InvalidParameter, match=says) as caught:
        words.encode(chat(message))
    assert caught.value.param == "messages"
    assert "\n" not in caught.value.message


def test_tools_and_template_arguments_reach_the_template(words):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    assert '"name": "get_weather"' in words.render(chat(USER, tools=(tool,)))
    thinking = chat(USER, template_kwargs={"enable_thinking": False})
    assert words.render(thinking).endswith("<think>\n\n</think>\n\n")


def test_tool_arguments_are_objects_for_the_template(words):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    rendered = words.render(
        chat(USER, {"role": "assistant", "content": None, "tool_calls": [call]})
    )
    assert '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>' in rendered
    broken = {**call, "function": {"name": "f", "arguments": "{not json"}}
    rendered = words.render(chat(USER, {"role": "assistant", "tool_calls": [broken]}))
    assert "{not json" in rendered


def test_template_arguments_cannot_take_over_the_call(words):
    with pytest.raises(InvalidParameter, match="chat_template"):
        words.render(chat(USER, template_kwargs={"chat_template": "{{ 1 }}"}))


def test_templates_run_in_a_sandbox(tiny_llama):
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    words = tokenizer_files.load(spec_of(tiny_llama, chat_template=evil), 512)
    with pytest.raises(InvalidParameter, match="unsafe"):
        words.render(chat(USER))


def test_the_models_file_replaces_the_template(tiny_llama):
    words = tokenizer_files.load(
        spec_of(tiny_llama, chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}"),
        512,
    )
    assert words.render(chat(USER)) == "[Hi]"
    with pytest.raises(ModelNotLoadable, match="the chat template does not parse in line 1"):
        tokenizer_files.load(spec_of(tiny_llama, chat_template="{% for %}"), 512)


def test_a_tokenizer_with_chatml_tokens_speaks_chatml_by_default(plain):
    assert not plain.has_chat_template
    assert plain.render(chat(USER)) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_another_speaks_plain_lines(tiny_llama_plain, tmp_path):
    document = json.loads((tiny_llama_plain / "tokenizer.json").read_text())
    text = json.dumps(document).replace("<|im_start|>", "<s1>").replace("<|im_end|>", "<s2>")
    for file in tiny_llama_plain.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "tokenizer.json").write_text(text)
    words = tokenizer_files.load(spec_of(tmp_path), 512)
    answer = {"role": "assistant", "content": "Yo"}
    assert words.render(chat(USER, answer, USER)) == "user: Hi\nassistant: Yo\nuser: Hi\nassistant:"
    assert words.render(chat(USER, add_generation_prompt=False)) == "user: Hi"


@pytest.mark.parametrize("token", [-1, 512, 10**9])
def test_ids_outside_the_vocabulary_are_refused(words, token):
    with pytest.raises(InvalidParameter, match="not in the vocabulary"):
        words.encode(TokenPrompt((1, token)))
    with pytest.raises(InvalidParameter, match="not in the vocabulary"):
        words.decode((token,))


def test_ids_pass_as_they_are(words):
    assert words.encode(TokenPrompt((5, 6, 511))) == [5, 6, 511]


def test_lone_surrogates_are_refused(words):
    with pytest.raises(InvalidParameter, match="cannot be tokenised"):
        words.encode(TextPrompt("\ud800"))


def test_a_folder_without_tokenizer_is_not_loadable(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelNotLoadable, match="there is no tokenizer"):
        tokenizer_files.load(spec_of(tmp_path), 512)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelNotLoadable, match="tokenizer: "):
        tokenizer_files.load(spec_of(tmp_path), 512)


def test_the_template_of_chats_with_tools_is_tool_use(tiny_llama, tmp_path):
    """As Transformers chooses among named templates; the calls' format is that template's."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(tiny_llama, local_files_only=True)
    own.chat_template = {
        "default": "plain{{ messages[0].content }}<think></think>",
        "tool_use": "tools{{ messages[0].content }}{{ tools | tojson }}<tool_call>",
    }
    words = Tokenizer(own, vocab_size=512)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert words.render(chat(USER)) == "plainHi<think></think>"
    assert words.render(chat(USER, tools=(tool,))).startswith("toolsHi[{")
    assert words.dialect.tool_parser == "hermes"
    assert words.dialect.reasoning == ("<think>", "</think>")
    expected = own.apply_chat_template([USER], tools=[tool], tokenize=False)
    assert words.render(chat(USER, tools=(tool,), add_generation_prompt=False)) == expected


def test_tools_go_into_the_system_message_where_the_template_looks_for_them(tiny_llama):
    template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
        "{% if 'tools' in message %}<|tool|>{{ message['tools'] }}<|/tool|>{% endif %}{% endfor %}"
    )
    words = tokenizer_files.load(spec_of(tiny_llama, chat_template=template), 512)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert words.dialect.tool_parser == "phi4"
    listed = '<|tool|>[{"name": "f", "parameters": {}}]<|/tool|>'
    system = {"role": "system", "content": "Be short."}
    assert (
        words.render(chat(system, USER, tools=(tool,))) == f"<|system|>Be short.{listed}<|user|>Hi"
    )
    assert words.render(chat(USER, tools=(tool,))).endswith(f"tools.{listed}<|user|>Hi")


def test_calls_are_handed_to_the_template_in_its_form(tiny_llama):
    template = (
        "{{ tools }}<tool_call>{% for message in messages %}{% for call in message.tool_calls or [] %}"
        "{{ '[' + call.function.arguments + ']' }}{% endfor %}{% endfor %}"
    )
    words = tokenizer_files.load(spec_of(tiny_llama, chat_template=template), 512)
    function = {"name": "f", "arguments": '{"a": "ü"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    rendered = words.render(chat(USER, {"role": "assistant", "tool_calls": [call]}))
    assert rendered.endswith('[{"a": "ü"}]')


def test_tools_without_descriptions_are_described_by_nothing_where_the_template_fails(tiny_llama):
    template = (
        "{% for tool in tools %}{{ '// ' + tool.function.description }} {{ tool.function.name }}"
        "{% for name, one in tool.function.parameters.properties.items() %}"
        "({{ name + one.description }}){% endfor %}{% endfor %}"
    )
    words = tokenizer_files.load(spec_of(tiny_llama, chat_template=template), 512)
    bare = {"type": "function", "function": {"name": "f"}}
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    half = {"type": "function", "function": {"name": "g", "description": "G", "parameters": schema}}
    assert words.render(chat(USER, tools=(bare, half))) == "//  f// G g(a)"
