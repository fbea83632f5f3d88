"""JSON that arrives in pieces: values that are passed on as they come, and calls that are objects."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from api.parsing.arriving_text import Malformed
from penstock.foreign import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

NAME_KEYS: Final = ("name", "tool_name")
ARGUMENT_KEYS: Final = ("arguments", "parameters")

_BRACKET: Final = re.compile(r'["{}\[\]]')
_END_OF_STRING: Final = re.compile(r'["\\]')
_END_OF_SCALAR: Final = re.compile(r"[,\]}\s<\[{\"]")


def escaped(text: str) -> str:
    """Return text in the form that it has within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def value(source: Source, emit: Callable[[str], None]) -> Step[None]:
    """Emit one JSON value as it is written; of a container only its brackets are looked at.

    :raises Malformed: there is none, or the text ends within it.
    """
    match (yield from source.peek()):
        case "{" | "[":
            yield from container(source, emit)
        case '"':
            yield from _string(source, emit)
        case _:
            pieces: list[str] = []
            yield from source.run(_END_OF_SCALAR, pieces.append)
            loaded("".join(pieces))
            emit("".join(pieces))


def container(source: Source, emit: Callable[[str], None]) -> Step[None]:
    """Emit an object or a list; see `value`."""
    depth = 0
    while True:
        match (yield from source.run(_BRACKET, emit)):
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
            case '"':
                yield from _string(source, emit)
                continue
            case _:
                raise Malformed
        emit((yield from source.peek()))
        source.advance()
        if depth == 0:
            return


def captured(source: Source) -> Step[str]:
    """Return one JSON value as it is written; see `value`."""
    pieces: list[str] = []
    yield from value(source, pieces.append)
    return "".join(pieces)


def loaded(text: str) -> Any:
    """Return what JSON means.

    :raises Malformed: it is none.
    """
    try:
        return parse_json(text)
    except ValueError:
        raise Malformed from None


def call(source: Source, known: Collection[str] | None = None) -> Step[None]:
    """Read `{"name": ..., "arguments": {...}}`, its keys in any order, and begin the call.

    Arguments are emitted as they come if the name comes first, which is how models write. Without
    arguments there are none; a string of JSON is taken for what it holds. Once the call has begun,
    an object that goes wrong ends it, and the rest is content.

    :raises Malformed: it is no call, of one of `known` if they are given.
    """
    before = source.calls
    yield from source.expect("{")
    try:
        yield from _fields(source, known)
    except Malformed:
        if source.calls == before:
            raise
        source.give_up_rest()
    source.forget_mark()


def _fields(source: Source, known: Collection[str] | None) -> Step[None]:
    name: str | None = None
    arguments: str | None = None
    is_begun = False
    yield from source.blanks()
    while not (yield from source.skip("}")):
        key = yield from _key(source)
        if key in NAME_KEYS and name is None:
            name = _name((yield from captured(source)), known)
        elif key in ARGUMENT_KEYS and arguments is None and not is_begun:
            if name is not None and (yield from source.peek()) == "{":
                source.begin_call(name)
                is_begun = True
                yield from container(source, source.arguments)
                source.mark()
            else:
                arguments = _arguments((yield from captured(source)))
        else:
            yield from captured(source)
        yield from source.blanks()
        if not (yield from source.skip(",")):
            yield from source.expect("}")
            break
        yield from source.blanks()
    if not is_begun:
        source.begin_call(name or "")
        source.arguments(arguments or "{}")


def _key(source: Source) -> Step[str]:
    if (yield from source.peek()) != '"':
        raise Malformed
    key = loaded((yield from captured(source)))
    yield from source.blanks()
    yield from source.expect(":")
    yield from source.blanks()
    return key


def _name(raw: str, known: Collection[str] | None) -> str:
    name = loaded(raw)
    if not isinstance(name, str) or not name or (known is not None and name not in known):
        raise Malformed
    return name


def _arguments(raw: str) -> str:
    """Return an object's JSON, also out of a string: some models quote it twice."""
    value = loaded(raw)
    if isinstance(value, str):
        raw = value.strip() or "{}"
        value = loaded(raw)
    if not isinstance(value, dict):
        raise Malformed
    return raw


def _string(source: Source, emit: Callable[[str], None]) -> Step[None]:
    emit((yield from source.peek()))
    source.advance()
    while True:
        match (yield from source.run(_END_OF_STRING, emit)):
            case '"':
                emit('"')
                source.advance()
                return
            case "\\":
                emit("\\")
                source.advance()
                character = yield from source.peek()
                if not character:
                    raise Malformed
                emit(character)
                source.advance()
            case _:
                raise Malformed
