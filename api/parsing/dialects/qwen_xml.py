"""`<tool_call><function=f><parameter=city>Paris</parameter></function></tool_call>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from api.parsing import json_values, tagged_values
from api.parsing.arriving_text import Malformed
from api.parsing.object_call import ObjectCall

if TYPE_CHECKING:
    from collections.abc import Collection

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

FUNCTION: Final = "<function="
PARAMETER: Final = "<parameter="
END_PARAMETER: Final = "</parameter>"
END_FUNCTION: Final = "</function>"

_NAME: Final = re.compile(r"[^<>\n]")


@dataclass(frozen=True, slots=True)
class QwenXml:
    """Calls between `begin` and `end`; values stand on lines of their own, or not.

    Models leave markers out: a function's name without `begin` is taken for a call if it is known,
    and a function may end within its last value.
    """

    begin: str
    end: str
    own_lines: bool

    def read(self, source: Source) -> Step[None]:
        """See `Dialect`."""
        while marker := (yield from source.text(self.begin, FUNCTION)):
            try:
                if marker == FUNCTION:
                    yield from self._function(source, source.functions)
                else:
                    yield from source.blanks()
                    yield from source.expect(FUNCTION)
                    yield from self._function(source)
                while marker != FUNCTION and (yield from source.skip_after_blanks(FUNCTION)):
                    source.mark(back=len(FUNCTION))
                    yield from self._function(source)
            except Malformed:
                source.give_up()
            else:
                yield from source.skip_after_blanks(self.end)

    def _function(self, source: Source, known: Collection[str] | None = None) -> Step[None]:
        name = (yield from source.word(_NAME)).strip()
        yield from source.expect(">")
        if known is not None and name not in known:
            raise Malformed
        yield from self._body(source, name)

    def _body(self, source: Source, name: str) -> Step[None]:
        yield from source.blanks()
        if (yield from source.ahead("{")):
            source.begin_call(name)
            yield from json_values.container(source, source.arguments)
            yield from source.skip_after_blanks(END_FUNCTION)
            return
        call = ObjectCall(source, name)
        try:
            while not (yield from source.skip(END_FUNCTION)):
                yield from source.expect(PARAMETER)
                key = (yield from source.word(_NAME)).strip()
                yield from source.expect(">")
                call.key(key)
                types = source.functions.get(name, {}).get(key)
                yield from self._value(source, types)
                call.value_ended()
                yield from source.blanks()
                if (yield from source.ahead(self.end)):
                    break
        except Malformed:
            call.fail()
            raise
        call.finish()

    def _value(self, source: Source, types: list[str] | None) -> Step[None]:
        ending = tagged_values.Ending(END_PARAMETER, (PARAMETER, END_FUNCTION, self.end))
        outer = tagged_values.Ending(END_FUNCTION, (self.end,), is_kept=True)
        yield from tagged_values.read(source, types, (ending, outer), own_lines=self.own_lines)


QWEN: Final = QwenXml("<tool_call>", "</tool_call>", own_lines=True)
"""Qwen3-Coder, Qwen3.5, Nemotron 3, MiMo."""

SEED: Final = QwenXml("<seed:tool_call>", "</seed:tool_call>", own_lines=False)
"""ByteDance's Seed-OSS."""
