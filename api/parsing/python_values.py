"""Calls that are written as Python: `f(city="Paris", days=[1, 2])`, made into JSON as they come."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from api.parsing.arriving_text import NAME, Malformed
from api.parsing.json_values import escaped, loaded
from api.parsing.object_call import ObjectCall

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

_DEEPEST: Final = 32
"""Containers within each other."""

_WORDS: Final = {"True": "true", "False": "false", "None": "null"}
_KEY: Final = re.compile(r"[\w.:@$-]")
_WORD: Final = re.compile(r"[\w.+-]")
_LEADING_ZEROS: Final = re.compile(r"^([+-]?)0+(?=\d)")
_ENDS: Final = ",)]}:"
"""What may follow a string's last quote. Before anything else a quote is taken for a part of the
text, which is how models write shell commands and apostrophes."""

_ESCAPES: Final = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0",
    "\\": "\\", "'": "'", '"': '"', "\n": "",
}  # fmt: skip
_LONGEST_GAP: Final = 16
"""White space between a string's last quote and what follows it."""

_CODES: Final = {"x": 2, "u": 4, "U": 8}


def call(source: Source, known: Collection[str] | None = None) -> Step[None]:
    """Read `name(key=value, ...)` and begin the call; values by place go to the schema's names.

    :raises Malformed: it is no call, of one of `known` if they are given.
    """
    name = yield from source.word(NAME)
    if known is not None and name not in known:
        raise Malformed
    yield from source.expect("(")
    yield from arguments(source, name, ")")


def arguments(source: Source, name: str, end: str) -> Step[None]:
    """Read `key=value, ...` up to `end`, the arguments of a call of `name`.

    :raises Malformed: it goes wrong; what was whole is emitted, the rest is content already.
    """
    places = iter(source.functions.get(name, {}))
    written = ObjectCall(source, name)
    try:
        yield from source.blanks()
        while not (yield from source.skip(end)):
            key = yield from _key(source, places)
            yield from _check_value(source)
            written.key(key)
            yield from value(source, source.arguments)
            written.value_ended()
            yield from source.blanks()
            if not (yield from source.skip(",")):
                yield from source.expect(end)
                break
            yield from source.blanks()
    except Malformed:
        written.fail()
        raise
    written.finish()


def value(source: Source, emit: Callable[[str], None], depth: int = _DEEPEST) -> Step[None]:
    """Read one value and emit its JSON: text, number, list, tuple, set, dict, None and the truths.

    :raises Malformed: there is none, or the text ends within it.
    """
    character = yield from source.peek()
    if not depth:
        raise Malformed
    if character and character in "'\"":
        yield from _string(source, emit)
    elif character and character in "[(":
        source.advance()
        yield from _items(source, emit, "]" if character == "[" else ")", depth)
    elif character == "{":
        source.advance()
        yield from _braces(source, emit, depth)
    else:
        emit(_scalar((yield from source.word(_WORD))))


def _scalar(word: str) -> str:
    word = _WORDS.get(word, word)
    if word not in ("true", "false", "null"):
        word = _LEADING_ZEROS.sub(r"\1", word).removeprefix("+").replace("_", "")
        if word.startswith("."):
            word = "0" + word
        if word.endswith("."):
            word += "0"
    loaded(word)
    return word


def _key(source: Source, places: Iterator[str]) -> Step[str]:
    """Return the key of `key=`, or the schema's name for a value that has none."""
    if (yield from source.ahead('"', "'", "[", "{")):
        position = next(places, None)
        if position is None:
            raise Malformed
        return position
    key = yield from source.word(_KEY)
    yield from source.blanks()
    yield from source.expect("=")
    yield from source.blanks()
    return key


def _check_value(source: Source) -> Step[None]:
    """Check that a value may come next: until then the text may be no call."""
    character = yield from source.peek()
    if not character or not (character in "'\"[({+-." or character.isalnum()):
        raise Malformed


def _items(source: Source, emit: Callable[[str], None], end: str, depth: int) -> Step[None]:
    emit("[")
    yield from source.blanks()
    first = True
    while not (yield from source.skip(end)):
        if not first:
            emit(", ")
        first = False
        yield from value(source, emit, depth - 1)
        yield from source.blanks()
        if not (yield from source.skip(",")):
            yield from source.expect(end)
            break
        yield from source.blanks()
    emit("]")


def _braces(source: Source, emit: Callable[[str], None], depth: int) -> Step[None]:
    """Read a dict, or a set, which becomes a list."""
    yield from source.blanks()
    if (yield from source.skip("}")):
        emit("{}")
        return
    written: list[str] = []
    yield from value(source, written.append, depth - 1)
    yield from source.blanks()
    if not (yield from source.skip(":")):
        emit("[" + "".join(written))
        if (yield from source.skip(",")):
            rest: list[str] = []
            yield from _items(source, rest.append, "}", depth)
            items = "".join(rest)[1:-1]
            emit(f", {items}]" if items else "]")
            return
        yield from source.expect("}")
        emit("]")
        return
    emit("{")
    while True:
        key = "".join(written)
        emit((key if key.startswith('"') else f'"{escaped(key)}"') + ": ")
        yield from source.blanks()
        yield from value(source, emit, depth - 1)
        yield from source.blanks()
        if (yield from source.skip(",")):
            yield from source.blanks()
        elif (yield from source.ahead("}")) != "}":
            raise Malformed
        if (yield from source.skip("}")):
            break
        emit(", ")
        written = []
        yield from value(source, written.append, depth - 1)
        yield from source.blanks()
        yield from source.expect(":")
    emit("}")


def _string(source: Source, emit: Callable[[str], None]) -> Step[None]:
    character = yield from source.peek()
    quote = yield from source.skip(character * 3, character * 2, character)
    emit('"')
    if len(quote) != 2:  # noqa: PLR2004 - an empty string
        yield from _characters(source, quote, emit)
    emit('"')


def _characters(source: Source, quote: str, emit: Callable[[str], None]) -> Step[None]:
    stop = re.compile(r"[\\" + quote[0] + "]")
    while True:
        character = yield from source.run(stop, lambda text: emit(escaped(text)))
        if not character:
            raise Malformed
        if character == "\\":
            source.advance()
            yield from _escape(source, emit)
        elif len(quote) > 1:
            if (yield from source.skip(quote)):
                return
            source.advance()
            emit(escaped(character))
        else:
            source.advance()
            if (yield from _ends(source)):
                return
            emit(escaped(character))


def _ends(source: Source) -> Step[bool]:
    """Whether a quote that was read ends its string, by what follows."""
    for offset in range(_LONGEST_GAP):
        character = yield from source.peek_at(offset)
        if not character or character in _ENDS:
            return True
        if not character.isspace():
            return False
    return True


def _escape(source: Source, emit: Callable[[str], None]) -> Step[None]:
    character = yield from source.peek()
    if not character:
        raise Malformed
    source.advance()
    if character in _ESCAPES:
        emit(escaped(_ESCAPES[character]))
        return
    digits = _CODES.get(character, 0)
    written = ""
    while len(written) < digits:
        digit = yield from source.peek()
        if not digit or digit not in "0123456789abcdefABCDEF":
            break
        source.advance()
        written += digit
    code = int(written, 16) if written and len(written) == digits else None
    if code is None or code > 0x10FFFF or 0xD800 <= code < 0xE000:  # noqa: PLR2004 - no character
        emit(escaped("\\" + character + written))
    else:
        emit(escaped(chr(code)))
