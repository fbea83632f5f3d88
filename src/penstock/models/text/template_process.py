"""Renders chat templates in a separate process, which may be killed at any time.

A template is a program by the model's makers. This process has little memory, and its parent ends
it when a template takes too long. It runs as a file, with only jinja2 and the standard library; its
variables, filters and blocks are those that Transformers gives to chat templates. JSON frames, each
preceded by its length in 8 bytes, arrive on stdin and are answered on stdout.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO, Final, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LENGTH: Final = struct.Struct("<Q")
CONTINUED: Final = "<the answer goes on from here>"
"""Placed after the last message's text, followed by a space, until it has been rendered."""
REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning; templates see all of them."""


class Generation(Extension):
    """`{% generation %}`, which marks an assistant's text for training; without effect here."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: Any) -> nodes.Node:
        """Return the block's body unchanged."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        Namespace.__setitem__(self, name, value)


def _check(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no names that begin with an underscore: {name!r}")


class _Dict:
    """`dict` without access to its class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005  local time, as in Transformers


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def parse(template: str) -> None:
    """Check that a template parses. Nothing of it is run, not even constant expressions.

    :raises TemplateError: its syntax is wrong.
    """
    _environment().parse(template)


@lru_cache(maxsize=16)
def compiled(template: str) -> Any:
    """Return a template that is ready to render, with its constants evaluated.

    :raises TemplateError: its syntax is wrong.
    """
    return _environment().from_string(template)


def _environment() -> Any:
    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals.update(
        raise_exception=_raise, strftime_now=_now, dict=_Dict(), namespace=_Namespace
    )
    return environment


def render(
    template: str,
    messages: list[dict[str, Any]],
    variables: dict[str, Any],
    *,
    continues: bool,
) -> str:
    """Return the text of a chat; if it `continues`, it ends with the last message's text.

    :raises Exception: whatever the template raises.
    """
    chat = [_seen(message) for message in messages]
    if not continues:
        return compiled(template).render(messages=chat, **variables)
    holder, name = _last_text(chat)
    text: str = holder[name]
    holder[name] = f"{text}{CONTINUED} "
    rendered: str = compiled(template).render(messages=chat, **variables)
    before, mark, after = rendered.rpartition(CONTINUED)
    if not mark or text.strip() not in before:
        raise TemplateError("continue_final_message: the template omits the last message")
    # A template that strips texts would take the text's own blanks; it takes this space instead.
    return before if after.startswith(" ") else before.rstrip()


def _last_text(chat: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return the object with the last message's text, and the text's key: message, or last part."""
    last: dict[str, Any] = chat[-1] if chat else {}
    parts = cast("list[dict[str, Any]] | str | None", last.get("content"))
    holder = parts[-1] if isinstance(parts, list) and parts else last
    name = "content" if holder is last else "text"
    if not isinstance(holder.get(name), str):
        raise TemplateError("continue_final_message: the last message has no text")
    return holder, name


def _seen(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as templates see it: without nulls, and with reasoning under all its names."""
    seen = {key: value for key, value in message.items() if value is not None}
    reasoning = next((seen[name] for name in REASONING if name in seen), None)
    if reasoning is None:
        return seen
    return {"thinking": reasoning, **seen, "reasoning_content": reasoning}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return `text`, or `length` if the text is over the limit, or `error`."""
    try:
        text = render(
            request["template"],
            request["messages"],
            request["variables"],
            continues=request["continues"],
        )
    except MemoryError:
        return {"error": "it needs too much memory", "bound": True}
    except Exception as error:  # noqa: BLE001  the template's errors are its answer
        return {"error": str(error).strip() or type(error).__name__}
    most = request["most_characters"]
    if most is not None and len(text) > most:
        return {"length": len(text)}
    return {"text": text}


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next frame; None at the end of input."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return stream.read(LENGTH.unpack(head)[0])


def serve(memory_bytes: int, seconds: int) -> None:
    """Answer until stdin ends. A render that is not ended takes at most `seconds` of CPU time."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the group; the end of stdin ends us
        signal.signal(number, signal.SIG_IGN)
    with suppress(ValueError, OSError):  # a system without these limits
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while (frame := read_frame(source)) is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        with suppress(ValueError, OSError):
            soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        try:
            reply = json.dumps(answer(json.loads(frame))).encode()
        except MemoryError:
            reply = b'{"error": "it needs too much memory", "bound": true}'
        del frame
        target.write(LENGTH.pack(len(reply)) + reply)
        target.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
