"""FastChat's conversation templates as Jinja chat templates, for models without their own.

They come from FastChat's library, of which only `fastchat.conversation` is imported: it needs just
the standard library (`pip install --no-deps fschat`). The styles are those of
`fastchat.conversation.Conversation.get_prompt`.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from penstock.errors import BadSettings

FAMILIES: Final = (
    ("vicuna", "vicuna_v1.1"),
    ("koala", "koala_v1"),
    ("alpaca", "alpaca"),
    ("dolly-v2", "dolly_v2"),
    ("baize", "baize"),
    ("chatglm3", "chatglm3"),
    ("stablelm", "stablelm"),
    ("redpajama", "redpajama-incite"),
    ("phoenix", "phoenix"),
    ("baichuan2", "baichuan2-chat"),
    ("qwen", "qwen-7b-chat"),
    ("zephyr", "zephyr"),
    ("tinyllama", "TinyLlama"),
)
"""Parts of models' names, and FastChat's template for each; the first match counts."""


@dataclass(frozen=True)
class Template:
    """A Jinja template, and the strings that end its answers."""

    jinja: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Style:
    """How a conversation is put together.

    `turn` comes between a role and its text, `open` after the role whose text is to be generated,
    `system_end` after the system's text. `optional`: the system's part is omitted if its message,
    or its whole prompt, is empty.
    """

    turn: str
    open: str
    ends: tuple[str, str]
    system_end: str = ""
    optional: Literal["", "message", "prompt"] = ""


def by_model(name: str) -> Template | None:
    """Return FastChat's template for a model's name; None without the library or a match."""
    lowered = name.lower()
    template = next((template_ for part, template_ in FAMILIES if part in lowered), None)
    if template is None or _library() is None:
        return None
    return jinja(template)


def jinja(name: str) -> Template:
    """Return FastChat's template with this name.

    :raises BadSettings: the library is missing, or the template is unknown or not supported here.
    """
    library = _library()
    if library is None:
        raise BadSettings(
            f"conversation template {name!r}: FastChat's library is not installed "
            f"(pip install --no-deps fschat)"
        )
    if name not in library.conv_templates:
        raise BadSettings(f"conversation template {name!r}: FastChat has none of this name")
    conversation = library.get_conv_template(name)
    style = _style(library.SeparatorStyle, conversation)
    if style is None:
        raise BadSettings(
            f"conversation template {name!r}: its style is not "
            f"supported; give the model a chat_template in the models file"
        )
    stop: Any = conversation.stop_str or ()
    return Template(
        _compiled(conversation, style), (stop,) if isinstance(stop, str) else tuple(stop)
    )


def _library() -> Any:
    try:
        return importlib.import_module("fastchat.conversation")
    except ImportError:
        return None


def _style(styles: Any, conversation: Any) -> _Style | None:
    sep: str = conversation.sep
    single, two = (sep, sep), (sep, conversation.sep2 or "")
    table = {
        styles.ADD_COLON_SINGLE: _Style(": ", ":", single, sep),
        styles.ADD_COLON_TWO: _Style(": ", ":", two, sep),
        styles.ADD_COLON_SPACE_SINGLE: _Style(": ", ": ", single, sep),
        styles.ADD_NEW_LINE_SINGLE: _Style("\n", "\n", single, sep, optional="prompt"),
        styles.NO_COLON_SINGLE: _Style("", "", single),
        styles.NO_COLON_TWO: _Style("", "", two),
        styles.CHATML: _Style("\n", "\n", (f"{sep}\n", f"{sep}\n"), f"{sep}\n", optional="prompt"),
        styles.CHATGLM3: _Style("\n", "", ("", ""), optional="message"),
        styles.PHOENIX: _Style(": <s>", ": <s>", ("</s>", "</s>")),
        styles.ROBIN: _Style(":\n", ":\n", single, sep),
        styles.FALCON_CHAT: _Style(": ", ":", single, sep, optional="message"),
        styles.DOLLY: _Style(":\n", ":\n", (two[0], f"{two[1]}\n\n")),
        styles.DEEPSEEK_CHAT: _Style(": ", ":", two),
    }
    return table.get(conversation.sep_style)


def _compiled(conversation: Any, style: _Style) -> str:
    """Return the Jinja template of a style that concatenates roles and texts."""
    before, placeholder, after = conversation.system_template.partition("{system_message}")
    user, assistant, *_ = conversation.roles
    names = (user, assistant)
    examples = "".join(
        f"{role}{style.turn}{text}{style.ends[number % 2]}"
        for number, (role, text) in enumerate(conversation.messages)
    )
    system_text = "found.system" if placeholder else '""'
    system = f"{{{{- {_text(before)} + {system_text} + {_text(after + style.system_end)} }}}}"
    if style.optional == "message":
        system = f"{{%- if found.system %}}{system}{{%- endif %}}"
    elif style.optional == "prompt":
        system = f"{{%- if {system_text} or {_text(before + after)} %}}{system}{{%- endif %}}"
    turns = "".join(
        f"{{%- {word} message.role == {_text(role)} %}}"
        f"{{{{- {_text(name + style.turn)} + message.content + {_text(end)} }}}}"
        for word, role, name, end in zip(
            ("if", "elif"), ("user", "assistant"), names, style.ends, strict=True
        )
    )
    return (
        f"{{%- set found = namespace(system={_text(conversation.system_message or '')}) %}}"
        "{%- for message in messages if message.role == 'system' %}"
        "{%- set found.system = message.content %}{%- endfor %}"
        f"{system}{{{{- {_text(examples)} }}}}"
        "{%- for message in messages if message.role != 'system' %}"
        f"{turns}"
        "{%- else %}{{- raise_exception('Unknown role: ' + message.role) }}{%- endif %}"
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {_text(assistant + style.open)} }}}}{{%- endif %}}"
    )


def _text(value: str) -> str:
    """Return a Jinja string literal."""
    return json.dumps(value, ensure_ascii=False)
