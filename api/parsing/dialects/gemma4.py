"""`<|tool_call>call:f{city:<|"|>Paris<|"|>}<tool_call|>` (Gemma 4, FunctionGemma)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from api.parsing import json_values
from api.parsing.arriving_text import NAME, Malformed
from api.parsing.json_values import escaped
from api.parsing.object_call import ObjectCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

CALL: Final = "call:"

_DEEPEST: Final = 32
_KEY: Final = re.compile(r"[^:,{}\[\]<>\"\s]")
_SCALAR: Final = re.compile(r"[\w.+-]")


@dataclass(frozen=True, slots=True)
class Gemma4:
    """Calls between `begin` and `end`, their texts between two `quote`s."""

    begin: str
    end: str
    quote: str

    def read(self, source: Source) -> Step[None]:
        """See `Dialect`."""
        while (yield from source.text(self.begin)):
            try:
                yield from source.blanks()
                yield from source.expect(CALL)
                yield from source.blanks()
                name = yield from source.word(NAME)
                yield from source.expect("{")
                yield from self._arguments(source, name)
            except Malformed:
                source.give_up()
            else:
                yield from source.skip_after_blanks(self.end)

    def _arguments(self, source: Source, name: str) -> Step[None]:
        call = ObjectCall(source, name)
        try:
            yield from source.blanks()
            while not (yield from source.skip("}")):
                key = yield from self._key(source)
                call.key(key)
                yield from self._value(source, source.arguments, _DEEPEST)
                call.value_ended()
                yield from source.blanks()
                if not (yield from source.skip(",")):
                    yield from source.expect("}")
                    break
                yield from source.blanks()
        except Malformed:
            call.fail()
            raise
        call.finish()

    def _key(self, source: Source) -> Step[str]:
        if (yield from source.ahead(self.quote)):
            pieces: list[str] = []
            yield from self._text(source, pieces.append)
            key = "".join(pieces)
        elif (yield from source.ahead('"')):
            key = str(json_values.loaded((yield from json_values.captured(source))))
        else:
            key = yield from source.word(_KEY)
        yield from source.blanks()
        yield from source.expect(":")
        yield from source.blanks()
        return key

    def _value(self, source: Source, emit: Callable[[str], None], depth: int) -> Step[None]:
        if not depth:
            raise Malformed
        if (yield from source.ahead(self.quote)):
            emit('"')
            yield from self._text(source, lambda text: emit(escaped(text)))
            emit('"')
        elif (yield from source.ahead('"')):
            yield from json_values.value(source, emit)
        elif (yield from source.skip("{")):
            yield from self._members(source, emit, depth)
        elif (yield from source.skip("[")):
            yield from self._items(source, emit, depth)
        else:
            word = yield from source.word(_SCALAR)
            word = {"True": "true", "False": "false", "None": "null"}.get(word, word)
            json_values.loaded(word)
            emit(word)

    def _members(self, source: Source, emit: Callable[[str], None], depth: int) -> Step[None]:
        emit("{")
        yield from source.blanks()
        before = ""
        while not (yield from source.skip("}")):
            key = yield from self._key(source)
            emit(f'{before}"{escaped(key)}": ')
            before = ", "
            yield from self._value(source, emit, depth - 1)
            if not (yield from self._goes_on(source, "}")):
                break
        emit("}")

    def _items(self, source: Source, emit: Callable[[str], None], depth: int) -> Step[None]:
        emit("[")
        yield from source.blanks()
        before = ""
        while not (yield from source.skip("]")):
            emit(before)
            before = ", "
            yield from self._value(source, emit, depth - 1)
            if not (yield from self._goes_on(source, "]")):
                break
        emit("]")

    def _goes_on(self, source: Source, end: str) -> Step[bool]:
        yield from source.blanks()
        if (yield from source.skip(",")):
            yield from source.blanks()
            return True
        yield from source.expect(end)
        return False

    def _text(self, source: Source, emit: Callable[[str], None]) -> Step[None]:
        yield from source.expect(self.quote)
        if not (yield from source.until(self.quote, emit=emit)):
            raise Malformed


GEMMA4: Final = Gemma4("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTIONGEMMA: Final = Gemma4("<start_function_call>", "<end_function_call>", "<escape>")
