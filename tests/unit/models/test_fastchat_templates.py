"""FastChat's conversation templates as Jinja, against FastChat's own rendering."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.contract.job import ChatPrompt
from penstock.errors import BadSettings
from penstock.models.spec import ModelSpec
from penstock.models.text import fastchat_templates
from penstock.models.text.fastchat_templates import by_model, jinja
from tests.fixtures.models import write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

conversation = pytest.importorskip(
    "fastchat.conversation", reason="FastChat's library is not here (pip install --no-deps fschat)"
)

EXPRESSED = {
    "ADD_COLON_SINGLE", "ADD_COLON_TWO", "ADD_COLON_SPACE_SINGLE", "ADD_NEW_LINE_SINGLE",
    "NO_COLON_SINGLE", "NO_COLON_TWO", "CHATML", "CHATGLM3", "PHOENIX", "ROBIN", "FALCON_CHAT",
    "DOLLY", "DEEPSEEK_CHAT",
}  # fmt: skip


def rendered(template: str, messages: list[dict[str, str]]) -> str:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True)


@pytest.mark.parametrize("name", sorted(conversation.conv_templates))
def test_every_template_that_is_expressed_renders_as_fastchat_does(name: str) -> None:
    own = conversation.get_conv_template(name)
    if getattr(own.sep_style, "name", "") not in EXPRESSED:
        with pytest.raises(BadSettings, match=r"chat_template|not supported"):
            jinja(name)
        return
    turns = ["first\n {{ question }}", 'an "answer" ä \\n', "second"]
    for system in (None, "Be brief."):
        theirs = conversation.get_conv_template(name)
        messages = []
        if system is not None:
            theirs.set_system_message(system)
            messages.append({"role": "system", "content": system})
        for number, text in enumerate(turns):
            theirs.append_message(theirs.roles[number % 2], text)
            messages.append({"role": ("user", "assistant")[number % 2], "content": text})
        theirs.append_message(theirs.roles[1], None)
        assert rendered(jinja(name).jinja, messages) == theirs.get_prompt()


def test_by_the_models_name() -> None:
    vicuna = by_model("vicuna-7b-v1.3")
    assert vicuna == jinja("vicuna_v1.1")
    assert by_model("something-else") is None
    assert jinja("one_shot").stop == ("###",)


def test_unknown_names() -> None:
    with pytest.raises(BadSettings, match="none of this name"):
        jinja("no-such-template")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastchat_templates, "_library", lambda: None)
    assert by_model("vicuna-7b") is None
    with pytest.raises(BadSettings, match="pip install"):
        jinja("vicuna_v1.1")


def test_the_families_name_templates() -> None:
    for _, name in fastchat_templates.FAMILIES:
        assert name in conversation.conv_templates


def test_a_models_own_template_wins(tmp_path: Path) -> None:
    from penstock.models.text.tokenizer_files import load

    for own in (True, False):
        folder = tmp_path / f"vicuna-{own}"
        size = write_tokenizer(folder, chat_template=own)
        spec = ModelSpec("v", "v-cpu", "cpu", None, folder, "transformers")
        tokenizer = load(spec, size)
        chat = ChatPrompt(({"role": "user", "content": "hi"},))
        assert tokenizer.has_chat_template
        assert tokenizer.render(chat).startswith("<|im_start|>" if own else "A chat between")
