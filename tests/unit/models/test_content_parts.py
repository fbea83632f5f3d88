"""Templates of models that take images: a text goes to them in the form that they read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from penstock.contract.job import ChatPrompt
from penstock.models.spec import ModelSpec
from penstock.models.text import tokenizer_files

if TYPE_CHECKING:
    from penstock.models.text.tokenizer import Tokenizer

PARTS = """\
{% for message in messages %}<{{ message['role'] }}>
{%- for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}
{%- endfor %}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
EITHER = """\
{% for message in messages %}<{{ message.role }}>{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{% if part.type == 'text' %}[{{ part.text }}]{% endif %}
{%- endfor %}{% endif %}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
TEXT = """\
{% for message in messages %}<{{ message.role }}>{{ message.content }}</>{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"})
WANTED = "<system>Be brief.</><user>Hi</><assistant>"


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    copied = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    (copied / "chat_template.jinja").unlink()
    return copied


def load(folder: Path, template: str | None = None) -> Tokenizer:
    spec = ModelSpec("m", "m-cpu", "cpu", None, folder, "transformers", chat_template=template)
    return tokenizer_files.load(spec, 512)


@pytest.mark.parametrize("template", [PARTS, EITHER, TEXT])
def test_a_text_reaches_every_kind_of_template(folder, template):
    words = load(folder, template)
    assert words.render(ChatPrompt(messages=CHAT)) == WANTED
    parts = [{"type": "text", "text": "Hi"}]
    assert (
        words.render(ChatPrompt(messages=(CHAT[0], {"role": "user", "content": parts}))) == WANTED
    )


@pytest.mark.parametrize("template", [PARTS, TEXT])
def test_an_answer_goes_on_in_every_kind(folder, template):
    begun = (*CHAT, {"role": "assistant", "content": "Hello, "})
    prompt = ChatPrompt(messages=begun, add_generation_prompt=False, continue_final_message=True)
    assert load(folder, template).render(prompt) == (
        "<system>Be brief.</><user>Hi</><assistant>Hello, "
    )


def test_the_template_of_a_processor_is_taken_where_there_is_no_other(folder):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": PARTS}))
    words = load(folder)
    assert words.has_chat_template
    assert words.render(ChatPrompt(messages=CHAT)) == WANTED
    (folder / "chat_template.jinja").write_text(TEXT.replace("<assistant>", "<a>"))
    assert load(folder).render(ChatPrompt(messages=CHAT)).endswith("<a>")
