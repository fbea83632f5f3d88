"""Renders chat templates in a process of its own, which may be ended at any time.

A template is a program of the model's makers. This one has little memory, and whoever started it
ends it when a template takes too long. It is run as a file, with jinja2 and the standard library
alone; the variables, filters and blocks are those that Transformers gives to chat templates. Frames
of JSON, each behind its length in 8 bytes, come in by stdin and are answered by stdout.
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
"""Stands behind the last message's text, and a space behind it, until that is rendered."""
REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning; templates see it as the first, and gpt-oss's as the second."""


class Generation(Extension):
    """`{% generation %}`, which marks an assistant's text for training: here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: Any) -> nodes.Node:
        """Return the block's body as it is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(Namespace):
    """A namespace that takes no name with an underscore first."""

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
        raise SecurityError(f"a namespace takes no name with an underscore first: {name!r}")


class _Dict:
    """`dict` without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005  the machine's time, as Transformers has it


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
    """See that a template parses. Nothing of it is run, not even a product of two numbers.

    :raises TemplateError: its syntax is wrong.
    """
    _environment().parse(template)


@lru_cache(maxsize=16)
def compiled(template: str) -> Any:
    """Return a template that is ready to render; its constants are worked out.

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
    """Return the text of a chat; where it `continues`, it ends with the last message's own text.

    :raises Exception: what the template raises.
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
        raise TemplateError("continue_final_message: the template leaves out the last message")
    # A template that strips texts takes the space, and would take the text's own blanks.
    return before if after.startswith(" ") else before.rstrip()


def _last_text(chat: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return what holds the last message's text, and under which name: itself, or its last part."""
    last: dict[str, Any] = chat[-1] if chat else {}
    parts = cast("list[dict[str, Any]] | str | None", last.get("content"))
    holder = parts[-1] if isinstance(parts, list) and parts else last
    name = "content" if holder is last else "text"
    if not isinstance(holder.get(name), str):
        raise TemplateError("continue_final_message: the last message has no text")
    return holder, name


def _seen(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as templates see it: nothing that is null, reasoning by all its names."""
    seen = {key: value for key, value in message.items() if value is not None}
    reasoning = next((seen[name] for name in REASONING if name in seen), None)
    if reasoning is None:
        return seen
    return {"thinking": reasoning, **seen, "reasoning_content": reasoning}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return `text`, or `length` where that is over the bound, or `error`."""
    try:
        text = render(
            request["template"],
            request["messages"],
            request["variables"],
            continues=request["continues"],
        )
    except MemoryError:
        return {"error": "it needs too much memory", "bound": True}
    except Exception as error:  # noqa: BLE001  whatever a template raises is its answer
        return {"error": str(error).strip() or type(error).__name__}
    most = request["most_characters"]
    if most is not None and len(text) > most:
        return {"length": len(text)}
    return {"text": text}


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next frame; None at the end."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return stream.read(LENGTH.unpack(head)[0])


def serve(memory_bytes: int, seconds: int) -> None:
    """Answer until stdin ends. A render that nobody ends takes `seconds` of the CPU at most."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a group; stdin's end ends us
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
